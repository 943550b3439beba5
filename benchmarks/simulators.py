"""PPO on Gymnasium's simulators: ours beside Stable-Baselines3 and beside stepping alone, in turns.

    python -m benchmarks.simulators [--env CartPole-v1] [--num-envs 8 64] [--peers-python PYTHON]

Each is a process of its own. PYTHON is one with stable-baselines3, of which everybody has the settings of
`benchmarks.entrants`; without it there is nothing beside ours but the simulators.
"""

import argparse
from typing import Any

from benchmarks.entrants.race import Program, Timed, race, ratio
from benchmarks.record import save
from benchmarks.training import told

STEPPING, OURS = "stepping", "ours"


def programs(arguments: argparse.Namespace, num_envs: int) -> list[Program]:
    """Ours, and what is beside it, on so many simulators."""
    num_steps = max(1, 1024 // num_envs)
    shared = {"env": arguments.env, "num_envs": num_envs, "num_steps": num_steps, "updates": arguments.updates}
    found = [Program(STEPPING, "stepping", shared), Program(OURS, "simulated", shared)]
    if arguments.peers_python:
        for threads in (1, 0):
            name = f"stable-baselines3, {threads or 'all'} threads"
            options = {**shared, "threads": threads}
            found.append(Program(name, "stable_baselines", options, arguments.peers_python))
    return found


def figures(times: dict[str, Timed]) -> dict[str, Any]:
    """Of each program its rate, what it told, and ours over it."""
    return {
        name: {
            "decisions_per_second_median": round(timed.rate),
            "ours_over_it": told(ratio(times[OURS], timed)),
            "first_update_seconds": round(timed.told["first_update_seconds"], 1),
            "differs": timed.told["differs"],
        }
        for name, timed in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--updates", type=int, default=16, help="of a chunk")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peers-python", help="a Python that has stable-baselines3")
    arguments = parser.parse_args()
    found = {}
    for num_envs in arguments.num_envs:
        print(f"{num_envs} simulators ...", flush=True)
        found[str(num_envs)] = figures(race(programs(arguments, num_envs), repeats=arguments.repeats))
    note = {"note": "rates are of a shared machine; ratios are of the same round, with quartiles over n rounds"}
    save(
        f"simulators-{arguments.env}", {"env": arguments.env, "decisions_per_update": 1024, **note, "simulators": found}
    )


if __name__ == "__main__":
    main()
