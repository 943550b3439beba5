"""Random batches with gaps, as both libraries want them: texts with their logits, of which a part is learnt from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

import polopt_jax as po

VOCABULARY = 7


@dataclass(frozen=True)
class Texts:
    """Rows of tokens `[rows, length]` with the logits of their next tokens, `[rows, length, V]`; numpy, float64."""

    ids: np.ndarray
    logits: np.ndarray
    ref_logits: np.ndarray
    """Of the frozen reference."""
    attended: np.ndarray
    """bool: prompt or completion, not padding."""
    learnt: np.ndarray
    """bool: completion."""

    def batch(self, *leading: int, learnt: np.ndarray | None = None, **fields: jax.Array) -> po.Batch:
        """Ours: a decision is a next token, so there is one less than tokens; rows are `[*leading]`."""
        shape = (*leading, self.ids.shape[1] - 1)
        action = jnp.asarray(self.ids[:, 1:]).reshape(shape)
        mask = jnp.asarray((self.learnt if learnt is None else learnt)[:, 1:]).reshape(shape)
        ref_log_prob = self.policy(self.ref_logits, *leading).policy.log_prob(action)
        return po.Batch(obs=None, action=action, mask=mask, ref_log_prob=ref_log_prob, **fields)

    def policy(self, logits: np.ndarray | jax.Array, *leading: int) -> po.Outputs:
        """What a model says that has these logits."""
        shifted = jnp.asarray(logits)[:, :-1]
        return po.Outputs(policy=po.Categorical(logits=shifted.reshape(*leading, *shifted.shape[1:])))


def texts(rng: np.random.Generator, prompts: np.ndarray, completions: np.ndarray, length: int) -> Texts:
    """Prompts and completions of the given numbers of tokens `[rows]`, and padding at the end."""
    place = np.arange(length)
    attended = place < (prompts + completions)[:, None]
    shape = (len(prompts), length)
    return Texts(
        ids=np.where(attended, rng.integers(1, VOCABULARY, shape), 0),
        logits=1.5 * rng.normal(size=(*shape, VOCABULARY)),
        ref_logits=1.5 * rng.normal(size=(*shape, VOCABULARY)),
        attended=attended,
        learnt=attended & (place >= prompts[:, None]),
    )


def ragged_texts(rng: np.random.Generator, rows: int, *, prompt: int = 3, completion: int = 6) -> Texts:
    """Prompts of 1 to `prompt` tokens, completions of 1 to `completion`."""
    prompts, completions = rng.integers(1, prompt + 1, rows), rng.integers(1, completion + 1, rows)
    return texts(rng, prompts, completions, prompt + completion)


PAIRS = 5


@dataclass(frozen=True)
class Pairs:
    """Chosen rows and then rejected ones, `[2 PAIRS, ...]`."""

    texts: Texts

    @property
    def at(self) -> np.ndarray:
        """Where the gradient is taken."""
        return self.texts.logits

    @property
    def batch(self) -> po.Batch:
        return self.texts.batch(2, PAIRS)

    def outputs(self, logits: jax.Array) -> po.Outputs:
        return self.texts.policy(logits, 2, PAIRS)


def pairs(seed: int) -> Pairs:
    return Pairs(ragged_texts(np.random.default_rng(seed), 2 * PAIRS))


def pairs_with_an_empty_one(seed: int) -> Pairs:
    """The last pair has nothing to learn from, in either row."""
    found = ragged_texts(np.random.default_rng(seed), 2 * PAIRS)
    learnt = found.learnt.reshape(2, PAIRS, -1).copy()
    learnt[:, -1] = False
    return Pairs(replace(found, learnt=learnt.reshape(found.learnt.shape)))


LABELLED = 6


@dataclass(frozen=True)
class Labelled:
    """Rows with a label each, and the same prompts with completions that were written for others."""

    texts: Texts
    mismatched: Texts
    label: np.ndarray

    @property
    def at(self) -> np.ndarray:
        return self.texts.logits

    @property
    def batch(self) -> po.Batch:
        """KTO's reference point is made of the mismatched rows by `po.kl_reference_point`."""
        other = self.mismatched.batch(LABELLED)
        point = po.kl_reference_point(
            log_prob=self.mismatched.policy(self.mismatched.logits, LABELLED).policy.log_prob(other.action),
            ref_log_prob=other.ref_log_prob,
            mask=other.mask,
        )
        return self.texts.batch(LABELLED, label=jnp.asarray(self.label), reference_point=point)

    def outputs(self, logits: jax.Array) -> po.Outputs:
        return self.texts.policy(logits, LABELLED)


def labelled(seed: int) -> Labelled:
    """The mismatched rows are more probable than under the reference, or KTO's point would be its bound, 0."""
    rng = np.random.default_rng(seed)
    rows, mismatched = ragged_texts(rng, LABELLED), ragged_texts(rng, LABELLED, completion=5)
    told = np.eye(VOCABULARY)[np.roll(mismatched.ids, -1, axis=1)]
    mismatched = replace(mismatched, ref_logits=mismatched.logits - 0.5 * told)
    return Labelled(rows, mismatched, np.arange(LABELLED) % 3 != 0)


PROMPTS, ATTEMPTS, PROMPT, COMPLETION = 3, 4, 2, 8
ROWS = PROMPTS * ATTEMPTS


@dataclass(frozen=True)
class Groups:
    """ATTEMPTS at each of PROMPTS prompts; what an older policy and the sampling engine said of the completions."""

    texts: Texts
    tool: np.ndarray
    """bool `[ROWS, COMPLETION]`: False where a tool wrote the token."""
    advantage: np.ndarray
    """`[ROWS]`."""
    old_logits: np.ndarray
    """Of the policy before the update, as `texts.logits`."""
    sampler_log_prob: np.ndarray
    """`[ROWS, COMPLETION]`, of the engine that sampled."""

    @property
    def at(self) -> np.ndarray:
        return self.texts.logits

    @property
    def old_log_prob(self) -> np.ndarray:
        """`[ROWS, COMPLETION]`."""
        said = log_softmax(self.old_logits[:, PROMPT - 1 : -1], axis=-1)
        return np.take_along_axis(said, self.texts.ids[:, PROMPT:, None], axis=-1)[..., 0]

    @property
    def mask(self) -> np.ndarray:
        """bool `[ROWS, COMPLETION]`: what the policy said itself."""
        return self.texts.learnt[:, PROMPT:] & self.tool

    @property
    def batch(self) -> po.Batch:
        """Without the sampler's log-probabilities; `sampled` has them."""
        shape = (PROMPTS, ATTEMPTS, COMPLETION)
        action = jnp.asarray(self.texts.ids[:, PROMPT:]).reshape(shape)
        return po.Batch(
            obs=None,
            action=action,
            mask=jnp.asarray(self.mask).reshape(shape),
            advantage=jnp.broadcast_to(jnp.asarray(self.advantage).reshape(PROMPTS, ATTEMPTS, 1), shape),
            log_prob=jnp.asarray(self.old_log_prob).reshape(shape),
            ref_log_prob=self.outputs(self.texts.ref_logits).policy.log_prob(action),
        )

    @property
    def sampled(self) -> po.Batch:
        batch = self.batch
        return replace(batch, sampler_log_prob=jnp.asarray(self.sampler_log_prob).reshape(batch.mask.shape))

    def outputs(self, logits: np.ndarray | jax.Array) -> po.Outputs:
        """The logits of a completion's tokens are those of the positions before them."""
        said = jnp.asarray(logits)[:, PROMPT - 1 : -1]
        return po.Outputs(policy=po.Categorical(logits=said.reshape(PROMPTS, ATTEMPTS, COMPLETION, VOCABULARY)))


def groups(seed: int) -> Groups:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, COMPLETION + 1, ROWS)
    lengths[0] = COMPLETION
    found = texts(rng, np.full(ROWS, PROMPT), lengths, PROMPT + COMPLETION)
    tool = rng.random((ROWS, COMPLETION)) > 0.2
    tool[:, 0] = True  # every row has a token of its own
    old_logits = found.logits + 0.4 * rng.normal(size=found.logits.shape)
    found = Groups(found, tool, rng.normal(size=ROWS), old_logits, np.zeros(()))
    noise = 0.3 * rng.normal(size=tool.shape) + 0.5 * rng.normal(size=(ROWS, 1))
    return replace(found, sampler_log_prob=found.old_log_prob + noise)


def groups_without_tools(seed: int) -> Groups:
    """Every token of a completion is the policy's."""
    found = groups(seed)
    return replace(found, tool=np.ones_like(found.tool))


def groups_with_an_empty_row(seed: int) -> Groups:
    """The last attempt at the last prompt has nothing to learn from."""
    found = groups(seed)
    tool = found.tool.copy()
    tool[-1] = False
    return replace(found, tool=tool)
