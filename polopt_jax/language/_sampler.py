"""Sampling answers to prompts from a model that decodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax.language._tokens import Tokens
from polopt_jax.language._transformer import TokenNetwork
from polopt_jax.types import Array, Params, Rollout


def sample_tokens(
    network: TokenNetwork, params: Params, prompt: Array | Tokens, key: Array, *, length: int, stop: int | None = None
) -> Rollout:
    """Samples `length` tokens after each prompt of P tokens, as one episode per row.

        a_t ~ π(· | prompt, a_0 .. a_{t-1}),    obs = (prompt, a_0 .. a_{T-2}),    action = (prompt from its second
        token on, a_0 .. a_{T-1})

    Takes `prompt` `[..., P]` (integer ids of any row axes; P = 1 is a start token or the name of a question), one key,
    and a static `length` T. Integer prompts are all of one length; of several lengths they are `Tokens`, padded on the
    left. The prompt is read in one call. Returns a time-major `Rollout` of whole rows, every field `[P-1+T, ...]`:
    `[P-1+T, B]` for prompts `[B, P]`, `[P-1+T, N, G]` for groups, `[P-1+T, 2, N]` for pairs. Its last T steps are the
    answers:

    * `obs` the input tokens (`Tokens` where the prompt is), `action` the sampled ones (in the dtype of `prompt`),
      `next_obs` the next input token;
    * `log_prob` and `value` as the network gave them when it sampled, `next_value` the value one step later, 0 after
      the last (None where the network has no critic);
    * `terminated` True at the last step, `truncated` False, `mask` True;
    * `reward` zeros: score the finished answers `action[P-1:]`, then `dataclasses.replace(rollout, reward=...)`.

    The P-1 steps before them are context, which nobody decided: `mask` False, `action` the next token of the prompt,
    `log_prob` 0. They are there because a model must read them. In rows `[..., P-1+T]` of such a rollout (`to_batch`)
    `network.apply` gives the recorded log-probabilities of the answers again, up to rounding. Every row is a whole
    episode already, which `episodes` and `first_episodes` leave as it is.

    With a `stop` an answer ends with that token: there `terminated` is True, and after it nobody decides any more:
    `mask` False, `log_prob` 0, `action` the stop token, and segment 0 in `Tokens`. The number of steps stays T, so that
    shapes are static; an answer without the token is one that was cut short.

    For answers at another temperature, or of the most probable tokens alone, see `tempered_network`; for several
    answers to each prompt `sample_groups`, which reads it once.

    Raises `ValueError` unless prompt is integer with a row axis and at least one token, length >= 1 and
    P - 1 + length <= network.max_length, and where `stop` is no token that the network reads.

    >>> from polopt_jax.language import transformer
    >>> network = transformer(vocab_size=5, num_outputs=3, max_length=6, width=8, depth=1)
    >>> prompt, key = jnp.array([[3, 4], [4, 4]]), jax.random.key(0)
    >>> params = jax.jit(network.init)(key)
    >>> rollout = jax.jit(lambda key: sample_tokens(network, params, prompt, key, length=5))(key)
    >>> rollout.action.shape, rollout.obs[:2].T.tolist(), rollout.mask[:, 0].tolist()
    ((6, 2), [[3, 4], [4, 4]], [False, True, True, True, True, True])
    """
    read = _read(network, params, prompt, length, stop)
    return _answer(network, params, prompt, read, key, length, stop)


def sample_groups(
    network: TokenNetwork,
    params: Params,
    prompt: Array | Tokens,
    key: Array,
    *,
    length: int,
    group_size: int,
    stop: int | None = None,
) -> Rollout:
    """Samples G = `group_size` answers to each prompt `[..., P]`, which is read once for all of them.

    Everything else is as in `sample_tokens` on prompts repeated G times along a new last row axis: a rollout
    `[P-1+T, ..., G]`, so `[P-1+T, N, G]` for prompts `[N, P]`.

    Raises `ValueError` as `sample_tokens`, and for a group_size below 1.

    >>> from polopt_jax.language import transformer
    >>> network = transformer(vocab_size=5, num_outputs=3, max_length=6, width=8, depth=1)
    >>> params, prompt = jax.jit(network.init)(jax.random.key(0)), jnp.array([[3, 4]])
    >>> sample = jax.jit(lambda key: sample_groups(network, params, prompt, key, length=4, group_size=7))
    >>> sample(jax.random.key(1)).mask.shape
    (5, 1, 7)
    """
    if group_size < 1:
        raise ValueError(f"sample_groups: group_size must be at least 1; it is {group_size}")
    read = _read(network, params, prompt, length, stop)
    axis = jax.tree.leaves(prompt)[0].ndim - 1

    def repeated(x: Array) -> Array:
        return jnp.repeat(jnp.expand_dims(x, axis), group_size, axis=axis)

    prompt, read = jax.tree.map(repeated, (prompt, read))
    return _answer(network, params, prompt, read, key, length, stop)


class _Context(NamedTuple):
    """What the network keeps of all tokens of a prompt but the last, and the values that it gave them."""

    cache: Any
    value: Array | None
    """`[..., P-1]`; None where there is no context or no critic."""


def _read(network: TokenNetwork, params: Params, prompt: Array | Tokens, length: int, stop: int | None) -> _Context:
    token = prompt.token if isinstance(prompt, Tokens) else prompt
    if token.ndim < 2 or token.shape[-1] < 1 or not jnp.issubdtype(token.dtype, jnp.integer):
        raise ValueError(
            f"prompt must be integer tokens [..., P] with a row axis before P >= 1; it is {token.dtype}{token.shape}"
        )
    *rows, size = token.shape
    context = size - 1
    if not 1 <= length <= network.max_length - context:
        raise ValueError(
            f"length must be in 1 .. {network.max_length - context} (network.max_length = {network.max_length}, less "
            f"{context} tokens of context); it is {length}"
        )
    vocabulary = network.vocab_size
    if stop is not None and (stop < 0 or (vocabulary is not None and stop >= vocabulary)):
        most = "" if vocabulary is None else f" below network.vocab_size = {vocabulary}"
        raise ValueError(f"stop must be a token, a whole number from 0{most}; it is {stop}")
    cache = network.init_cache(tuple(rows))
    if not context:
        return _Context(cache, None)
    cache, outputs = network.decode(params, cache, jax.tree.map(lambda x: x[..., :-1], prompt), 0)
    return _Context(cache, outputs.value)


def _answer(
    network: TokenNetwork,
    params: Params,
    prompt: Array | Tokens,
    read: _Context,
    key: Array,
    length: int,
    stop: int | None,
) -> Rollout:
    """The answers after a context, token by token."""
    last = jax.tree.map(lambda x: x[..., -1:], prompt)
    action_dtype = jax.tree.leaves(prompt)[0].dtype
    context = jax.tree.leaves(prompt)[0].shape[-1] - 1

    def decide(carry, inputs):
        cache, tokens, going = carry
        place, seed = inputs
        cache, outputs = network.decode(params, cache, tokens, place)
        sampled = outputs.policy.sample(seed=seed)
        log_prob = outputs.policy.log_prob(sampled)
        if stop is None:
            ended = jnp.zeros_like(going)
        else:
            sampled, log_prob = jnp.where(going, sampled, stop), jnp.where(going, log_prob, 0)
            ended = going & (sampled == stop)
        action = sampled.astype(action_dtype)
        after = going & ~ended
        return (cache, _following(tokens, action, after), after), (
            tokens,
            action,
            log_prob,
            outputs.value,
            going,
            ended,
        )

    steps = context + jnp.arange(length), jax.random.split(key, length)
    going = jnp.ones(jax.tree.leaves(last)[0].shape, bool)
    _, decided = jax.lax.scan(decide, (read.cache, last, going), steps)
    answered, action, log_prob, value, decided_here, ended = jax.tree.map(lambda x: x[..., 0], decided)
    return _rollout(prompt, answered, action, log_prob, value, decided_here, ended, read.value)


def _following(tokens: Array | Tokens, action: Array, going: Array) -> Array | Tokens:
    """The next input `[..., 1]`: the action, one place further in its text, or padding where the answer is over."""
    if not isinstance(tokens, Tokens):
        return action
    return replace(
        tokens,
        token=action,
        position=tokens.position + going.astype(tokens.position.dtype),
        segment=jnp.where(going, tokens.segment, 0),
    )


def _rollout(
    prompt: Array | Tokens,
    answered: Array | Tokens,
    action: Array,
    log_prob: Array,
    value: Array | None,
    going: Array,
    ended: Array,
    context_value: Array | None,
) -> Rollout:
    """The record, of prompts `[..., P]`, answers `[T, ...]` and, where there is a context, its values `[..., P-1]`."""
    context = jax.tree.map(lambda x: jnp.moveaxis(x[..., :-1], -1, 0), prompt)
    obs = jax.tree.map(lambda before, after: jnp.concatenate([before, after]), context, answered)
    token = obs.token if isinstance(obs, Tokens) else obs
    action = jnp.concatenate([token[1 : 1 + token.shape[0] - action.shape[0]], action])
    before = jnp.zeros((action.shape[0] - going.shape[0], *action.shape[1:]), bool)
    if value is not None and context_value is not None:
        value = jnp.concatenate([jnp.moveaxis(context_value, -1, 0), value])
    terminated = jnp.concatenate([before, ended.at[-1].set(going[-1])])
    after = None if value is None else jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
    next_value = None if after is None else jnp.where(terminated, 0, after)
    return Rollout(
        obs=obs,
        action=action,
        log_prob=jnp.concatenate([before.astype(log_prob.dtype), log_prob]),
        reward=jnp.zeros(action.shape, log_prob.dtype),
        terminated=terminated,
        truncated=jnp.zeros(action.shape, bool),
        next_obs=_next_obs(obs, action),
        mask=jnp.concatenate([before, going]),
        value=value,
        next_value=next_value,
    )


def _next_obs(obs: Array | Tokens, action: Array) -> Array | Tokens:
    """The input after each step, which is the action, `[P-1+T, ...]`."""
    if not isinstance(obs, Tokens):
        return action
    shifted = jax.tree.map(lambda x: jnp.concatenate([x[1:], x[-1:]]), obs)
    position = shifted.position.at[-1].add((shifted.segment[-1] > 0).astype(shifted.position.dtype))
    return replace(shifted, token=action, position=position)
