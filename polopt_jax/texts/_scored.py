"""Learning from answers that are sampled on the device and scored on the host: groups, and rewards in Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from polopt_jax.algorithms import adam
from polopt_jax.boundaries import check_takes, described
from polopt_jax.divergences import trajectory_kl
from polopt_jax.driver import Hosted, compiler_options, over_seeds
from polopt_jax.episodes import to_batch
from polopt_jax.fields import with_fields
from polopt_jax.language import Prompt, RewardColumns, Score, Scores, Tokenizer, TokenNetwork, Tokens, sample_groups
from polopt_jax.ranges import Count, Positive, Rate
from polopt_jax.texts._examples import Examples, places_of
from polopt_jax.texts._fed import HELD
from polopt_jax.texts._learning import REFERENCE, Learning, Optimization, initialised, learner, of_seeds, sampling_keys
from polopt_jax.training import TrainState
from polopt_jax.types import Array, Batch, Params, Rollout, Term, record

_NAMES = tuple(f"{HELD}{name}" for name in ("reward", "length", "ended", "ref_kl"))
EVALUATION = 0x6576616C
"""The seed of every evaluation, so that what differs between two is the policy."""


class UnscoredWarning(UserWarning):
    """Nothing that was answered could be scored, so that there is nothing to learn from."""


@with_fields
class Answers(NamedTuple):
    """How prompts are answered."""

    length: int
    """Tokens of an answer at most."""
    group_size: int
    """Answers to each prompt."""
    tokenizer: Tokenizer
    """Whose `eos_token_id`, if it has one, ends an answer."""
    score: Score
    """What they are worth, as `language.reward_workers` gives it: `(prompts, completions, columns) -> Scores`."""

    @property
    def stop(self) -> int | None:
        """The token that ends an answer."""
        return getattr(self.tokenizer, "eos_token_id", None)


@record
class Answered:
    """What is given of an update: the answers `[T, N, G]` and what they are worth `[N, G]`."""

    rollout: Rollout
    reward: Any


def from_rewards(
    learning: Learning,
    train: Examples,
    held: Examples | None,
    answers: Answers,
    term: Term,
    advantage: Callable[[Array], Array],
    *,
    learning_rate: Rate = 3e-4,
    num_epochs: Count = 2,
    num_minibatches: Count = 4,
    max_grad_norm: Positive = 1.0,
    optimizer: optax.GradientTransformation | None = None,
) -> Hosted:
    """Any objective over groups of answers: an update answers prompts several times each, and compares what that earns.

    Examples are prompts of `language.prompt_rows`; answers are scored on the host (`Answers.score`), with the columns
    of the records of their prompts. An answer that cannot be scored is left out of its group and masked out; where no
    answer of an update can be, it warns and says why of the first. Metrics: `episode/*` of the answers of an update,
    `answer/length` in tokens, the share that ended of themselves, `answer/ended`, and the share of groups in which all
    answers earned the same, so that there was nothing to compare, `answer/tied`. Of held-out prompts, one answer to
    each, sampled: `held/reward`, `held/length`, `held/ended`, and `held/ref_kl`, KL(π ‖ ref) in nats per answer.

    Args:
      term: of `GROUPED`, or one of your own over batches `[N, G, T]`.
      advantage: `rewards [N, G] -> [N, G]`, the one that belongs to the term.
      learning_rate: step size of Adam; in Python also a schedule of the update's number.
      num_epochs: passes over the answers of an update.
      num_minibatches: minibatches of each pass, each of whole groups.
      max_grad_norm: norm to which the gradient is clipped.
      optimizer: what steps in place of Adam with its clip, whose two numbers then say nothing.

    Raises ValueError if the prompts of an update are no multiple of its minibatches, a group is a single answer, or a
    record has not what the reward takes; TypeError if records are no prompts, or the score takes something else than
    prompts, completions and columns, or returns something else than `Scores`.
    """
    check_takes("from_rewards", "the score of Answers", answers.score, "prompts", "completions", "columns")
    _check_prompts(answers, [*train.kept, *(held.kept if held else ())])
    if answers.group_size < 2:
        raise ValueError(
            f"from_rewards: the answers of a group are compared, so group_size must be at least 2; it is "
            f"{answers.group_size}"
        )
    if learning.rows % num_minibatches:
        raise ValueError(
            f"from_rewards: the prompts of an update must be a multiple of num_minibatches = {num_minibatches}; they "
            f"are {learning.rows}"
        )
    steps = num_epochs * num_minibatches
    how = Optimization(
        optimizer or adam(learning_rate, max_grad_norm, steps_per_update=steps), num_epochs, num_minibatches
    )
    network, num_seeds = learning.network, len(learning.seeds)
    options = compiler_options()

    def sample(params: Params, prompts: Tokens, key: Array) -> Rollout:
        return _sampled(network, params, prompts, key, answers, group_size=answers.group_size)

    sampled = jax.jit(over_seeds(sample, num_seeds), compiler_options=options)

    def asked(update: int) -> tuple[list[np.ndarray], Tokens]:
        sizes = dict(size=len(train.kept), rows=learning.rows, update=update)
        places = [places_of(seed=seed, **sizes) for seed in learning.seeds]
        return places, of_seeds([train.take(place) for place in places])

    def gather(state: TrainState, update: int) -> tuple[Answered, dict[str, np.ndarray]]:
        places, tokens = asked(update)
        rollout = sampled(state.params, tokens, sampling_keys(state))
        records = [train.kept[p] for place in places for p in place for _ in range(answers.group_size)]
        reward = _scores(answers, records, rollout)
        return Answered(rollout=rollout, reward=reward), _told(answers, rollout, reward)

    def example(state: TrainState) -> Answered:
        rollout = jax.eval_shape(sampled, state.params, asked(0)[1], sampling_keys(state))
        shape = (num_seeds, learning.rows, answers.group_size)
        return Answered(rollout=rollout, reward=jax.ShapeDtypeStruct(shape, jnp.float32))

    def complete(params: Params, reference: Params, given: Answered) -> Batch:
        del params
        worth = jnp.broadcast_to(advantage(given.reward), given.rollout.reward.shape)
        batch = to_batch(given.rollout, advantage=worth)
        return replace(batch, ref_log_prob=network.apply(reference, batch.obs).policy.log_prob(batch.action))

    init, learn = initialised(learning, term, how), learner(learning, term, how, complete)
    evaluate = None if held is None else _looking(learning, held, answers)
    return Hosted(init, gather, learn, example, evaluate, () if held is None else _NAMES, num_seeds)


def _sampled(
    network: TokenNetwork, params: Params, prompts: Tokens, key: Array, answers: Answers, *, group_size: int
) -> Rollout:
    return sample_groups(network, params, prompts, key, length=answers.length, group_size=group_size, stop=answers.stop)


def _check_prompts(answers: Answers, records: Sequence[Any]) -> None:
    """Raises TypeError for what is no prompt, ValueError for one without what the reward takes."""
    takes = getattr(answers.score, "takes", RewardColumns())
    for prompt in records:
        if not isinstance(prompt, Prompt):
            raise TypeError(
                f"from_rewards: the records of the examples must be language.Prompt, not {described(prompt)}"
            )
        if wrong := takes.wrong(dict(prompt.columns)):
            raise ValueError(f"from_rewards: {wrong}, in line {prompt.line}, prompt {prompt.prompt[:40]!r}")


def _scores(answers: Answers, asked: Sequence[Prompt], rollout: Rollout) -> np.ndarray:
    """What answers `[seeds, T, N, G]` to the prompts of records are worth, `[seeds, N, G]` float32."""
    texts = answer_texts(rollout.action, rollout.mask, answers.tokenizer)
    found = answers.score([x.prompt for x in asked], texts, [dict(x.columns) for x in asked])
    if not isinstance(found, Scores):
        raise TypeError(
            "from_rewards: the score of Answers must return language.Scores, as language.reward_workers makes it of a "
            f"reward; it returned {described(found)}"
        )
    rewards = np.asarray(found.reward, np.float32)
    if rewards.shape != (len(texts),):
        raise ValueError(f"a score must be one number for each of {len(texts)} answers; its shape is {rewards.shape}")
    if np.isnan(rewards).all():
        said = f"from_rewards: no answer of an update could be scored: {found.told(most=1)}"
        warnings.warn(said, UnscoredWarning, stacklevel=2)
    return rewards.reshape(rollout.mask.shape[0], *rollout.mask.shape[2:])


def answer_texts(action: Array, mask: Array, tokenizer: Tokenizer) -> list[str]:
    """The texts of answers `[seeds, T, ...]`, row by row: the tokens that were decided, without the one that ends them.

    >>> from polopt_jax.language import ByteTokenizer
    >>> action, mask = np.array([[[257], [104], [105], [257]]]), np.array([[[False], [True], [True], [True]]])
    >>> answer_texts(action, mask, ByteTokenizer())
    ['hi']
    """
    stop = getattr(tokenizer, "eos_token_id", None)
    said, decided = (np.moveaxis(np.asarray(x), 1, -1) for x in (action, mask))
    rows = zip(said.reshape(-1, said.shape[-1]), decided.reshape(-1, said.shape[-1]), strict=True)
    return [tokenizer.decode([int(t) for t in row[real] if t != stop]) for row, real in rows]


def _told(answers: Answers, rollout: Rollout, reward: np.ndarray) -> dict[str, np.ndarray]:
    """What the answers of an update `[seeds, T, N, G]` earned, of each seed."""
    axes = (1, 2)
    scored = np.isfinite(reward)
    length, ended = _lengths(answers, rollout)
    best, worst = np.where(scored, reward, -np.inf).max(-1), np.where(scored, reward, np.inf).min(-1)
    return {
        "episode/finished": scored.sum(axes).astype(np.float32),
        "episode/return_sum": np.where(scored, reward, 0).sum(axes),
        "episode/unscored": (~scored).sum(axes).astype(np.float32),
        "answer/length": length.mean(axes),
        "answer/ended": ended.mean(axes),
        "answer/tied": (best <= worst).mean(-1).astype(np.float32),
    }


def _lengths(answers: Answers, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each answer, and whether it ended of itself, `[seeds, ...]`."""
    mask, action = np.asarray(rollout.mask), np.asarray(rollout.action)
    ended = (mask & (action == answers.stop)).any(1) if answers.stop is not None else np.zeros(mask[:, 0].shape)
    return mask.sum(1).astype(np.float32), ended.astype(np.float32)


def _looking(learning: Learning, held: Examples, answers: Answers) -> Callable[[TrainState], dict[str, np.ndarray]]:
    """Answers to every held-out prompt, one each: what they are worth, and how far from the reference they are."""
    network = learning.network
    prompts = jax.tree.map(jnp.asarray, held.given)

    def attempt(params: Params, reference: Params) -> tuple[Rollout, Array]:
        rollout = _sampled(network, params, prompts, jax.random.key(EVALUATION), answers, group_size=1)
        batch = to_batch(rollout)
        outputs, before = network.apply(params, batch.obs), network.apply(reference, batch.obs)
        return rollout, trajectory_kl(outputs, before, batch)

    compiled = jax.jit(over_seeds(attempt, len(learning.seeds)), compiler_options=compiler_options())
    asked = [*held.kept] * len(learning.seeds)

    def evaluate(state: TrainState) -> dict[str, np.ndarray]:
        rollout, moved = compiled(state.params, state.collect_state[REFERENCE])
        reward = _scores(answers, asked, rollout)
        length, ended = _lengths(answers, rollout)
        axes = (1, 2)
        return dict(
            zip(_NAMES, (_mean_of_scored(reward), length.mean(axes), ended.mean(axes), np.asarray(moved)), strict=True)
        )

    return evaluate


def _mean_of_scored(reward: np.ndarray) -> np.ndarray:
    """Of rewards `[R, ...]` the mean of each seed's that are finite, `[R]`; NaN where none is.

    >>> _mean_of_scored(np.array([[np.nan, 3.0, 5.0], [1.0, 2.0, 3.0]])).tolist()
    [4.0, 2.0]
    """
    axes, scored = tuple(range(1, reward.ndim)), np.isfinite(reward)
    with np.errstate(invalid="ignore"):
        return np.where(scored, reward, 0).sum(axes) / scored.sum(axes)
