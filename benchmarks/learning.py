"""Reward reached at stated steps, several seeds vmapped in one run, with the command's own presets, from first policies
of one or several widths.

python -m benchmarks.learning --env inverted_pendulum --algorithms reinforce actor_critic npg trpo ppo
python -m benchmarks.learning --env reacher --algorithms ppo trpo --steps 2000000 --initial-log-std 0 -0.5 -1
"""

import argparse
from typing import Any

import numpy as np

from benchmarks.record import save
from polopt_jax import algorithms, driver
from polopt_jax.cli._envs import algorithms as algorithms_of
from polopt_jax.cli._presets import PRESETS
from polopt_jax.envs import brax_env
from polopt_jax.networks import INITIAL_LOG_STD, mlp_actor_critic
from polopt_jax.tasks import control_task


def learn(name: str, env_name: str, steps: int, num_seeds: int, initial_log_std: float) -> dict[str, Any]:
    """Trains one algorithm; mean return of the episodes that finished in each quarter and in the last tenth."""
    preset = PRESETS[name].control
    env = brax_env(env_name)
    network = mlp_actor_critic(env.obs_shape, env.action_space, initial_log_std=initial_log_std)
    task = control_task(env, network, num_envs=preset.num_rows, num_steps=preset.num_steps)
    algorithm = getattr(algorithms, name)(task, **preset.hyperparameters)
    chunk = max(1, round(steps / task.decisions / 20))
    run = driver.prepare(algorithm, driver.seed_keys(0, num_seeds), chunk_updates=chunk)
    done = list(driver.chunks(run, 20))
    sums = np.stack([c.metrics["episode/return_sum"].sum(1) for c in done])
    counts = np.stack([c.metrics["episode/finished"].sum(1) for c in done])
    kl = np.concatenate([c.metrics["kl_old_new"] for c in done], axis=1)

    def reward(part: slice) -> list[float] | None:
        """Per seed; None if a seed finished no episode (those of 1000 steps end together, so a tenth may hold none)."""
        if (counts[part].sum(0) == 0).any():
            return None
        return [round(float(x), 1) for x in sums[part].sum(0) / counts[part].sum(0)]

    def mean(part: slice) -> float | None:
        rewards = reward(part)
        return None if rewards is None else round(float(np.mean(rewards)), 1)

    spent = sum(c.seconds for c in done)
    return {
        "steps_per_seed": done[-1].update * task.decisions,
        "num_envs": preset.num_rows,
        "hyperparameters": preset.hyperparameters,
        "reward_last_tenth_mean": mean(slice(-2, None)),
        "reward_last_tenth_per_seed": reward(slice(-2, None)),
        "reward_last_quarter_per_seed": reward(slice(-5, None)),
        "reward_by_quarter_mean": [mean(slice(q, q + 5)) for q in (0, 5, 10, 15)],
        "mean_kl_old_new_per_update": float(f"{kl.mean():.3g}"),
        "train_seconds": round(spent, 1),
        "steps_per_second_all_seeds": round(done[-1].update * task.decisions * num_seeds / spent),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--env", default="inverted_pendulum")
    parser.add_argument("--algorithms", nargs="+", default=list(algorithms_of("ant")))
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--initial-log-std", nargs="+", type=float, default=[INITIAL_LOG_STD])
    asked = parser.parse_args()
    figures: dict[str, Any] = {"env": asked.env, "seeds": asked.seeds}
    for name in asked.algorithms:
        figures[name] = {}
        for log_std in asked.initial_log_std:
            figures[name][f"initial_log_std {log_std:g}"] = learn(name, asked.env, asked.steps, asked.seeds, log_std)
            save(f"learning-{asked.env}-{asked.steps}", figures)


if __name__ == "__main__":
    main()
