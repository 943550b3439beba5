"""A language so small that every sentence of it can be written down, and numpy's float64 law of it.

Sentences of T = 3 tokens out of V = 3, to N = 2 prompts; the next token depends on the prompt, the position and the
token before. A batch holds each sentence once and says that a uniform policy sampled it, so self-normalised weights are
the exact probabilities, and every plug-in value is the exact one.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import polopt_jax as po

T, V, N = 3, 3, 2
SENTENCES = np.array(list(itertools.product(range(V), repeat=T)), np.int32)
G = len(SENTENCES)


def table(seed, scale=1.0):
    """Logits `[N, T, V + 1, V]`, by prompt, position and token before (V is none)."""
    return scale * np.random.default_rng(seed).normal(size=(N, T, V + 1, V))


def log_probs(logits):
    """log-probability of every token of every sentence, `[N, G, T]`, in float64."""
    before = np.concatenate([np.full((G, 1), V), SENTENCES[:, :-1]], axis=1)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return log_p[:, np.arange(T)[None, :], before, SENTENCES]


def law(logits):
    """Probability of every sentence, `[N, G]`."""
    return np.exp(log_probs(logits).sum(-1))


def cells_law(probability, cells, num):
    """`[N, K]`"""
    return np.stack([(probability * (cells == k)).sum(-1) for k in range(num)], axis=-1)


def success(tokens):
    """The last token is 0, or the first is 1."""
    return (tokens[..., 2] == 0) | (tokens[..., 0] == 1)


def side_effect(tokens):
    """How many tokens are 1, at most 2."""
    return np.minimum((tokens == 1).sum(-1), 2)


OUTCOME = {"success": success(SENTENCES), "side_effect": side_effect(SENTENCES)}


def batch(logits=None, *, dtype=jnp.float32):
    """Every sentence once, for each prompt, `[N, G, T]`; behaved by the policy of `logits`, uniformly if None."""
    rows = lambda x: jnp.asarray(np.broadcast_to(x, (N, *x.shape)))  # noqa: E731
    behaviour = np.full((N, G, T), -np.log(V)) if logits is None else log_probs(logits)
    before = np.concatenate([np.full((G, 1), V), SENTENCES[:, :-1]], axis=1)
    return po.Batch(
        obs=rows(before),
        action=rows(SENTENCES),
        mask=jnp.asarray(np.ones((N, G, T), bool)),
        log_prob=jnp.asarray(behaviour, dtype),
        outcome=jax.tree.map(rows, OUTCOME),
    )


def model(logits, obs):
    """A table read as a policy."""
    index = (jnp.arange(N)[:, None, None], jnp.arange(T)[None, None, :], obs)
    return po.Outputs(policy=po.Categorical(logits=logits[index]))
