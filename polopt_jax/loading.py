"""From the directory of a run to a policy."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from polopt_jax.normalization import init_stats
from polopt_jax.policies import Policy

NORMALIZER = ".collect_state[0].normalizer"
"""Where a control task keeps its statistics within a `TrainState`."""


def load(run: str | Path, *, seed: int | None = None, update: int | None = None) -> Policy:
    """The policy that a run of `polopt train` has learnt.

        policy = polopt_jax.load("runs/ant-ppo-0")
        action = policy.act(obs)                # the mode; policy.act(obs, key) samples

    Parameters and statistics of the observations come from the checkpoint, which is compared with its manifest; the
    environment and the network from config.json. The run may still be going on.

    Args:
      run: its directory.
      seed: which of the seeds that were trained side by side; the first, if None.
      update: the checkpoint after so many updates; the newest, if None.

    Returns:
      A `Policy`, for observations of any leading shape as `policy.env` gives them.

    Raises:
      RunError: there is no run in the directory, or it has no such seed.
      CheckpointError: there is no such checkpoint, it is damaged, or it does not fit the config.

    >>> load("runs/none")
    Traceback (most recent call last):
    polopt_jax.runs._directory.RunError: there is no runs/none/config.json, so there is no run in runs/none
    """
    from polopt_jax.runs import RunError

    found = load_seeds(run, update=update)
    if seed is None:
        return next(iter(found.values()))
    if seed not in found:
        raise RunError(f"{run} has no seed {seed}; it has {', '.join(map(str, found))}")
    return found[seed]


def load_seeds(run: str | Path, *, update: int | None = None) -> dict[int, Policy]:
    """The policies of all seeds of a run, by seed; they share the environment and the model. Raises as `load`."""
    from polopt_jax import checkpoint, runs
    from polopt_jax.settings import Control, is_own, setting

    directory = Path(run)
    config = runs.read_run_config(directory)
    try:
        env, network = found = setting(config)
        seeds = range(config["seed"], config["seed"] + config["num_seeds"])
    except (KeyError, TypeError) as error:
        raise runs.RunError(f"{directory / runs.CONFIG} is not that of a run of polopt train: {error!r}") from error
    except ValueError as error:
        hint = "; its module must be found from here: set PYTHONPATH" if is_own(config["env"]) else ""
        raise runs.RunError(f"the run in {directory} cannot be made again: {error}{hint}") from error
    parts = {".params": jax.eval_shape(network.init, jax.random.key(0))}
    if isinstance(found, Control):
        parts[NORMALIZER] = jax.eval_shape(lambda: init_stats(jnp.zeros(found.env.obs_shape)))
    store = directory / runs.CHECKPOINTS
    saved, _ = checkpoint.restore_parts(store, parts, leading=(len(seeds),), step=update)

    def of_seed(place: int) -> Policy:
        mine = jax.tree.map(lambda x: x[place], saved)
        statistics = mine.get(NORMALIZER)
        return Policy(params=mine[".params"], network=network, normalizer=statistics, env=env, config=config)

    return {seed: of_seed(place) for place, seed in enumerate(seeds)}
