"""A run on texts that is on disk: its plan, its data, its policy and reference."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax import checkpoint, runs
from polopt_jax.cli._text_build import REFERENCE_PART, build
from polopt_jax.cli._text_data import Data, read_data
from polopt_jax.cli._text_family import kind_of
from polopt_jax.cli._text_plan import TextPlan, check_unchanged
from polopt_jax.cli._text_rewards import check_reward, scoring
from polopt_jax.cli._words import UsageError
from polopt_jax.settings import byte_transformer
from polopt_jax.texts import REFERENCE
from polopt_jax.training import TrainState
from polopt_jax.types import Params


class Learnt(NamedTuple):
    """What the newest checkpoint of a run holds, every leaf with a leading seed axis."""

    params: Params
    reference: Params
    update: int


def plan_of(config: Mapping[str, Any], directory: Path) -> TextPlan:
    """The plan that a config is of; RunError if it is damaged."""
    try:
        names = [field.name for field in dataclasses.fields(TextPlan)]
        own = {name: config[name] for name in names if name not in ("rate", "schedule", "reward_batch_size")}
        own["reward_batch_size"] = config.get("reward_batch_size")  # which runs of before have not
        own["hyperparameters"] = {k: tuple(x) if isinstance(x, list) else x for k, x in own["hyperparameters"].items()}
        chunks = config["updates"] // config["chunk_updates"]
        sizes = (config["seed"], config["num_seeds"], config["batch_size"], config["chunk_updates"], chunks)
        own["log_to"] = tuple(own["log_to"])
        return TextPlan(**own, rate=config["schedule"], schedule=runs.Schedule(*sizes))
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise runs.RunError(f"{directory / runs.CONFIG} is not that of a run of polopt train: {error!r}") from error


def data_of(plan: TextPlan, directory: Path) -> Data:
    """What a run learns from and what it held out. Raises UsageError if the file is gone, or is another one now."""
    path = Path(plan.data)
    check_unchanged(path, plan.data_sha256, directory)
    kind = kind_of(plan.algorithm, plan.objective)
    return read_data(path, kind, held_out=plan.held_out, max_length=plan.max_length, answer_length=plan.answer_length)


def learnt(plan: TextPlan, directory: Path) -> Learnt:
    """Parameters and reference from the newest checkpoint. Raises CheckpointError."""
    like = jax.eval_shape(byte_transformer(**plan.network).init, jax.random.key(0))
    store = directory / runs.CHECKPOINTS
    parts = {".params": like, REFERENCE_PART: like}
    saved, update = checkpoint.restore_parts(store, parts, leading=(plan.schedule.num_seeds,))
    return Learnt(saved[".params"], saved[REFERENCE_PART], update)


def evaluated(plan: TextPlan, directory: Path) -> tuple[int, dict[str, list[float]]]:
    """Of the held-out examples, what training measures: updates done, and by name a number for each seed."""
    data = data_of(plan, directory)
    if not data.held:
        raise UsageError(
            f"nothing was held out of {plan.data} (--held-out {plan.held_out}), so there is nothing to see"
        )
    check_reward(plan.reward, data)
    found = learnt(plan, directory)
    with scoring(plan) as score:
        seen_alone = data._replace(train=data.held)  # of what was learnt from nothing is asked
        hosted = build(plan, seen_alone, jax.tree.map(lambda x: x[0], found.reference), score)
        keys = jax.random.split(jax.random.key(0), plan.schedule.num_seeds)
        state = TrainState(
            params=found.params,
            opt_state=(),
            collect_state={REFERENCE: found.reference},
            key=keys,
            update=jnp.zeros(plan.schedule.num_seeds, jnp.int32),
        )
        seen = {} if hosted.evaluate is None else hosted.evaluate(state)
    return found.update, {name.split("/", 1)[1]: [float(x) for x in values] for name, values in seen.items()}
