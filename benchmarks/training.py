"""Training beside other people's programs and beside the environment alone, each in a process of its own, in turns.

    python -m benchmarks.training [--env inverted_pendulum] [--num-envs 64 1024] [--seeds 1] [--algorithm ppo]
    python -m benchmarks.training --beside purejaxrl --peers-python PYTHON --purejaxrl DIRECTORY

What is beside ours, and what it learns with, is in `benchmarks.entrants`. PureJaxRL is no package: DIRECTORY is the
folder `purejaxrl` in a copy of its repository, and PYTHON one that has brax, distrax, gymnax 0.0.9 (installed with
--no-deps, beside gymnasium, matplotlib and seaborn) and the same jax as this one. Without --beside nothing but brax is
needed.
"""

import argparse
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.entrants import NUM_STEPS
from benchmarks.entrants.race import Program, Ratio, Timed, race, ratio
from benchmarks.record import save

ENVIRONMENT, COLLECTING, OURS = "environment", "collecting", "ours"
PEERS = ("purejaxrl",)
DECISIONS = {"inverted_pendulum": 200_000, "inverted_double_pendulum": 100_000}
"""Of a chunk, so that it takes a second or two; of every other environment a tenth of the first."""


def programs(arguments: argparse.Namespace, num_envs: int) -> list[Program]:
    """The environment alone, our rollouts alone, ours, and those beside it, on `num_envs` environments of each seed."""
    rows = num_envs * arguments.seeds
    updates = max(2, round(DECISIONS.get(arguments.env, 20_000) / (rows * NUM_STEPS)))
    shared = {"env": arguments.env, "backend": arguments.backend, "updates": updates}
    learners = {**shared, "num_envs": num_envs, "seeds": arguments.seeds}
    found = [
        Program(ENVIRONMENT, "environment", {**shared, "num_envs": rows}),
        Program(COLLECTING, "collecting", {**shared, "num_envs": rows, "algorithm": arguments.algorithm}),
        Program(OURS, "ours", {**learners, "algorithm": arguments.algorithm}),
    ]
    sources = {"purejaxrl": {"source": arguments.purejaxrl}}
    return found + [
        Program(name, name, {**learners, **sources[name]}, arguments.peers_python) for name in arguments.beside
    ]


def figures(times: dict[str, Timed]) -> dict[str, Any]:
    """Of each program its rate and what it told, and ours over each of the others."""
    found: dict[str, Any] = {
        name: {
            "decisions_per_second_median": round(timed.rate),
            "over_environment": told(ratio(timed, times[ENVIRONMENT])),
            "build_seconds": round(timed.told["build_seconds"], 1),
            "first_update_seconds": round(timed.told["first_update_seconds"], 1),
            "peak_mb": timed.told["peak_mb"],
            "differs": timed.told["differs"],
        }
        for name, timed in times.items()
    }
    for name, timed in times.items():
        if name not in (ENVIRONMENT, COLLECTING, OURS):
            found[name]["ours_over_it"] = told(ratio(times[OURS], timed))
            first = times[OURS].told["first_update_seconds"] / timed.told["first_update_seconds"]
            found[name]["our_first_update_over_its"] = round(first, 2)
    return found


def told(found: Ratio) -> dict[str, float]:
    return {
        "median": round(found.median, 3),
        "low": round(found.low, 3),
        "high": round(found.high, 3),
        "n": found.rounds,
    }


def drawn(found: dict[str, dict[str, Any]]) -> Table:
    """Figures by number of environments, as a table."""
    table = Table("environments", "program", "decisions/s", "of the environment", "ours over it", "first update")
    for num_envs, rows in found.items():
        for name, row in rows.items():
            over = row.get("ours_over_it")
            share, times = (
                f"{x['median']} ({x['low']} to {x['high']})" if x else "" for x in (row["over_environment"], over)
            )
            rate = f"{row['decisions_per_second_median']:,}"
            table.add_row(num_envs, name, rate, share, times, f"{row['first_update_seconds']} s")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--env", default="inverted_pendulum")
    parser.add_argument("--backend", default="spring")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[64, 1024], help="of each seed")
    parser.add_argument("--seeds", type=int, default=1, help="side by side in one program")
    parser.add_argument("--algorithm", choices=["ppo", "trpo", "npg", "actor_critic", "reinforce"], default="ppo")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--beside", nargs="*", choices=PEERS, default=[])
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--purejaxrl", help="the folder purejaxrl in a copy of its repository")
    arguments = parser.parse_args()
    if "purejaxrl" in arguments.beside and arguments.purejaxrl is None:
        parser.error("--beside purejaxrl needs --purejaxrl DIRECTORY, the folder of that name in its repository")
    if arguments.beside and arguments.algorithm != "ppo":
        parser.error(f"--beside: what stands there is PPO, and --algorithm is {arguments.algorithm}")
    found = {}
    for num_envs in arguments.num_envs:
        print(f"{num_envs} environments ...", flush=True)
        found[str(num_envs)] = figures(race(programs(arguments, num_envs), repeats=arguments.repeats))
    Console(width=110).print(drawn(found))
    seeds = f"-{arguments.seeds}-seeds" if arguments.seeds > 1 else ""
    what = {name: getattr(arguments, name) for name in ("env", "backend", "algorithm", "seeds")}
    note = {"note": "rates are of a shared machine; ratios are of the same round, with quartiles over n rounds"}
    sizes = "-".join(map(str, arguments.num_envs))
    save(f"training-{arguments.algorithm}-{arguments.env}-{sizes}{seeds}", {**what, **note, "environments": found})


if __name__ == "__main__":
    main()
