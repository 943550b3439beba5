"""Halfcheetah on its back: how often each recipe that learns from a rollout finds it, beside how fast it runs.

python -m benchmarks.outcomes_halfcheetah             (an hour on two cores; goes on with the recipes that are missing)
python -m benchmarks.outcomes_halfcheetah --table     (the table alone, from what is kept)

What is run and how it is judged is registered in `docs/study.md`, amendment 9.
"""

import argparse
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import polopt_jax as po
from benchmarks.outcomes_exact.findings import table
from benchmarks.record import RESULTS, reckoned
from polopt_jax import algorithms, driver, frontiers, study, suite
from polopt_jax.cli._presets import PRESETS
from polopt_jax.envs import Environment, brax_env
from polopt_jax.episodes import per_episode
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.tasks import control_task
from polopt_jax.types import Array, record
from polopt_jax.worlds import halfcheetah_outcome

KEPT = RESULTS / "outcomes" / "halfcheetah.json"
RECIPES = ("reinforce", "actor_critic", "npg", "trpo", "ppo")
SEEDS, DECISIONS, LOOKS, EPISODES = 10, 1_000_000, 10, 32
FAST, MOSTLY, MATCHED = 2.0, 0.5, 0.9
"""Metres per second that are a success, the share of an episode that is on its back, and the success that is read at."""


@record
class Look:
    """Where a policy stands, by so many episodes."""

    success: Array
    law: Array
    """P(s, z), `[2, 2]`."""
    speed: Array
    """m/s, mean."""


def look(env: Environment, act: Any, key: Array, *, episodes: int, steps: int) -> Look:
    """What a policy does in whole episodes, its actions drawn."""
    first, key = jax.random.split(key)
    _, rollout = po.unroll(env, act, po.start(env, first, num_envs=episodes), key, num_steps=steps)
    whole, _ = po.first_episodes(rollout)
    outcome = per_episode(halfcheetah_outcome, whole)
    fast, turned = outcome["speed"] > FAST, outcome["upside_down"] > MOSTLY
    law = jax.nn.one_hot(2 * fast + turned, 4).mean(0).reshape(2, 2)
    return Look(success=law[1].sum(), law=law, speed=outcome["speed"].mean())


def curve(name: str, *, seeds: int, decisions: int, looks: int, episodes: int, length: int = 1000) -> dict[str, Any]:
    """One recipe with the command's preset: `success`, `law` and `speed` `[R, looks + 1, ...]` of R seeds."""
    preset = PRESETS[name].control
    env = brax_env("halfcheetah", episode_length=length)
    network = mlp_actor_critic(env.obs_shape, env.action_space)
    task = control_task(env, network, num_envs=preset.num_rows, num_steps=preset.num_steps)
    algorithm = getattr(algorithms, name)(task, **preset.hyperparameters)
    assert algorithm.act is not None  # of a control task there is

    def where(state: Any, key: Array) -> Look:
        return look(env, algorithm.act(state), key, episodes=episodes, steps=length)

    looked = jax.jit(jax.vmap(where), compiler_options=driver.compiler_options())
    keys = jax.random.split(jax.random.key(43), seeds)  # the same first states and draws at every look
    chunk = max(1, round(decisions / task.decisions / looks))
    run = driver.prepare(algorithm, driver.seed_keys(0, seeds), chunk_updates=chunk)
    found = [jax.device_get(looked(run.state, keys))]
    seconds = 0.0
    for done in driver.chunks(run, looks):
        seconds += done.seconds
        found.append(jax.device_get(looked(done.state, keys)))
        print(f"{name}: {done.update * task.decisions:,} decisions, {found[-1].speed.mean():.2f} m/s", flush=True)
    every = jax.tree.map(lambda *x: np.stack(x, 1), *found)
    said = {field: np.asarray(getattr(every, field), float).tolist() for field in ("success", "law", "speed")}
    return {"decisions": chunk * task.decisions * looks, "seconds": seconds, **said}


def rates(figures: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(z) where the success first is `MATCHED`, `[R]`, NaN where it never is; P(z) and success in the end, `[R]`."""
    path = Look(**{name: jnp.asarray(figures[name]) for name in ("success", "law", "speed")})
    matched = jax.vmap(lambda path: frontiers.at_success(path, MATCHED))(path)
    law = np.asarray(figures["law"])
    return np.asarray(matched.point.law[..., 1].sum(-1), float), law[:, -1, :, 1].sum(-1), law[:, -1, 1].sum(-1)


def share_of_recipe(values: list[np.ndarray]) -> float:
    """η²: what of the variance of logit P(z) over runs lies between the recipes; NaN if nothing varies."""
    there = [study.logit(x[np.isfinite(x)]) for x in values]
    there = [x for x in there if x.size]
    every = np.concatenate(there)
    total = ((every - every.mean()) ** 2).sum()
    between = sum(x.size * (x.mean() - every.mean()) ** 2 for x in there)
    return float(between / total) if total > 0 else float("nan")


def halfcheetah(_: Any = None) -> str:
    """By recipe: speed, success, and how often it is on its back, with intervals over seeds."""
    found = json.loads(KEPT.read_text())["figures"]

    def word(values: np.ndarray) -> str:
        x = suite.interval(values)
        return f"{x.mean:.3f} [{x.low:.3f}, {x.high:.3f}]" if x.has_ends else f"{x.mean:.3f}"

    rows = []
    for name, figures in found.items():
        matched, end, success = rates(figures)
        speed = np.asarray(figures["speed"])[:, -1]
        never, turned = int(np.isnan(matched).sum()), int((end > 0.5).sum())
        seeds = len(end)
        at = word(matched) if never < seeds else None
        rows.append([name, word(speed), word(success), f"{never} of {seeds}", at, word(end), f"{turned} of {seeds}"])
    said = [rates(figures) for figures in found.values()]
    shares = [share_of_recipe([x[which] for x in said]) for which in (0, 1)]
    rows.append(["η² of the recipe", None, None, None, *(f"{x:.2f}" if np.isfinite(x) else None for x in shares), None])
    head = ("recipe", "m/s in the end", "success in the end", "never at .9", "P(z) at .9", "P(z) in the end")
    return table((*head, "seeds mostly on the back"), rows)


def main() -> None:
    from benchmarks import outcomes_study

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="reckon nothing")
    if not parser.parse_args().table:
        figures = json.loads(KEPT.read_text())["figures"] if KEPT.exists() else {}
        for name in (name for name in RECIPES if name not in figures):
            figures[name] = curve(name, seeds=SEEDS, decisions=DECISIONS, looks=LOOKS, episodes=EPISODES)
            KEPT.write_text(reckoned("outcomes_halfcheetah", figures))
    outcomes_study.rewrite()


if __name__ == "__main__":
    main()
