"""Completions of prompts, token by token, beside what a reference says of the same tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from polopt_jax.episodes import to_batch
from polopt_jax.fields import with_fields
from polopt_jax.language import Prompt, Tokenizer, TokenNetwork, Tokens, prompt_rows, sample_groups
from polopt_jax.types import Array, Params


@with_fields
class Completion(NamedTuple):
    """A completion, and how probable each of its tokens was."""

    prompt: str
    text: str
    pieces: tuple[str, ...]
    """The text, piece by piece: a token, or the tokens that make one character together. That of the token that ends a
    completion is empty."""
    log_prob: np.ndarray
    """Of each piece, of the policy that said it."""
    ref_log_prob: np.ndarray
    """Of each piece, of the reference."""
    ended: bool
    """Whether it ended of itself, and was not cut short."""

    @property
    def log_ratio(self) -> np.ndarray:
        """log π/ref of each piece, in nats."""
        return self.log_prob - self.ref_log_prob


def complete_prompts(
    network: TokenNetwork,
    params: Params,
    reference: Params,
    prompts: Sequence[str],
    tokenizer: Tokenizer,
    key: Array,
    *,
    length: int,
    samples: int,
) -> list[list[Completion]]:
    """`samples` completions of each prompt, of at most `length` tokens, with the reference's view of them.

    Log-probabilities are those of `network` as it is sampled (`tempered_network`, `greedy_network`); of a greedy one,
    those of the policy that it was made of. They have the token that ends a completion, whose piece is empty.

    Raises ValueError if a prompt and its completion are longer than the network reads, or a prompt has no token.

    >>> from polopt_jax.language import ByteTokenizer, transformer
    >>> network = transformer(vocab_size=258, num_outputs=258, max_length=16, width=8, depth=1)
    >>> params = jax.jit(network.init)(jax.random.key(0))
    >>> said = complete_prompts(network, params, params, ["2+2="], ByteTokenizer(), jax.random.key(1), length=4,
    ...                         samples=2)
    >>> len(said[0]), len(said[0][0].pieces) == len(said[0][0].log_prob), float(abs(said[0][0].log_ratio).max()) < 1e-4
    (2, True, True)
    """
    rows = prompt_rows([Prompt(text, n) for n, text in enumerate(prompts)], tokenizer, max_length=network.max_length)
    if rows.problems:
        raise ValueError(f"prompt {prompts[rows.problems[0].line]!r} {rows.problems[0].what}")
    longest = rows.tokens.token.shape[-1]
    if longest - 1 + length > network.max_length:
        raise ValueError(
            f"a prompt of {longest} tokens and {length} more are beyond the {network.max_length} that the network reads"
        )
    stop = getattr(tokenizer, "eos_token_id", None)

    run = _sampling(network, length, samples, stop)
    action, mask, log_prob, before = (np.asarray(x) for x in run(params, reference, rows.tokens, key))

    def completion(n: int, g: int) -> Completion:
        real = mask[n, g]
        tokens = [int(t) for t in action[n, g][real]]
        said = [t for t in tokens if t != stop]
        parts = _parts(tokens, tokenizer, stop)
        pieces = tuple("" if tokens[part][0] == stop else tokenizer.decode(tokens[part]) for part in parts)
        numbers = (np.array([x[n, g][real][part].sum() for part in parts]) for x in (log_prob, before))
        return Completion(prompts[n], tokenizer.decode(said), pieces, *numbers, ended=len(said) < len(tokens))

    return [[completion(n, g) for g in range(samples)] for n in range(len(prompts))]


@functools.lru_cache(maxsize=8)
def _sampling(network: TokenNetwork, length: int, samples: int, stop: int | None) -> Callable[..., tuple[Any, ...]]:
    """What samples, and what the reference says of it; compiled once for prompts of one shape."""

    @jax.jit
    def run(params: Params, reference: Params, tokens: Tokens, key: Array) -> tuple[Any, ...]:
        rollout = sample_groups(network, params, tokens, key, length=length, group_size=samples, stop=stop)
        batch = to_batch(rollout)
        before = network.apply(reference, batch.obs).policy.log_prob(batch.action)
        return batch.action, batch.mask, batch.log_prob, before

    return run


def _parts(tokens: Sequence[int], tokenizer: Tokenizer, stop: int | None) -> list[slice]:
    """Which tokens make a piece: one, or up to four that are no text one by one and a character together.

    >>> from polopt_jax.language import ByteTokenizer
    >>> [part.stop - part.start for part in _parts([110, 195, 169, 255, 33, 257], ByteTokenizer(), 257)]
    [1, 2, 1, 1, 1]
    """
    parts, first = [], 0
    while first < len(tokens):
        sizes = range(1, min(4, len(tokens) - first) + 1)
        whole = (n for n in sizes if "\ufffd" not in tokenizer.decode(tokens[first : first + n]))
        size = 1 if tokens[first] == stop else next(whole, 1)
        parts.append(slice(first, first + size))
        first += size
    return parts
