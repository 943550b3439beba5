"""Sampling answers to prompts from a model that decodes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.language._transformer import TokenNetwork
from polopt_jax.types import Array, Params, Rollout


def sample_tokens(network: TokenNetwork, params: Params, prompt: Array, key: Array, *, length: int) -> Rollout:
    """Samples `length` tokens after each prompt of P tokens, as one episode per row.

        a_t ~ π(· | prompt, a_0 .. a_{t-1}),    obs = (prompt, a_0 .. a_{T-2}),    action = (prompt from its second
        token on, a_0 .. a_{T-1})

    Takes `prompt` `[..., P]` (integer ids of any row axes; P = 1 is a start token or the name of a question), one key,
    and a static `length` T. All prompts are of one length. Returns a time-major `Rollout` of whole rows, every field
    `[P-1+T, ...]`: `[P-1+T, B]` for prompts `[B, P]`, `[P-1+T, N, G]` for groups, `[P-1+T, 2, N]` for pairs. Its last
    T steps are the answers:

    * `obs` the input tokens, `action` the sampled ones (in the dtype of `prompt`), `next_obs` the next input token;
    * `log_prob` and `value` as the network gave them when it sampled, `next_value` the value one step later, 0 after
      the last (None where the network has no critic);
    * `terminated` True at the last step, `truncated` False, `mask` True;
    * `reward` zeros: score the finished answers `action[P-1:]`, then `dataclasses.replace(rollout, reward=...)`.

    The P-1 steps before them are context, which nobody decided: `mask` False, `action` the next token of the prompt,
    `log_prob` 0. They are there because a model must read them. In rows `[..., P-1+T]` of such a rollout (`to_batch`)
    `network.apply` gives the recorded log-probabilities of the answers again, up to rounding. Every row is a whole
    episode already, which `episodes` and `first_episodes` leave as it is.

    Raises `ValueError` unless prompt is an integer array with a row axis and at least one token, length >= 1 and
    P - 1 + length <= network.max_length.

    >>> from polopt_jax.language import transformer
    >>> network = transformer(vocab_size=5, num_outputs=3, max_length=6, width=8, depth=1)
    >>> prompt, key = jnp.array([[3, 4], [4, 4]]), jax.random.key(0)
    >>> params = jax.jit(network.init)(key)
    >>> rollout = sample_tokens(network, params, prompt, key, length=5)
    >>> rollout.action.shape, rollout.obs[:2].T.tolist(), rollout.mask[:, 0].tolist()
    ((6, 2), [[3, 4], [4, 4]], [False, True, True, True, True, True])
    """
    if prompt.ndim < 2 or prompt.shape[-1] < 1 or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise ValueError(
            f"prompt must be integer tokens [..., P] with a row axis before P >= 1; it is {prompt.dtype}{prompt.shape}"
        )
    *rows, size = prompt.shape
    context = size - 1
    if not 1 <= length <= network.max_length - context:
        raise ValueError(
            f"length must be in 1 .. {network.max_length - context} (network.max_length = {network.max_length}, less "
            f"{context} tokens of context); it is {length}"
        )
    cache, context_value = network.init_cache(tuple(rows)), None
    if context:
        cache, outputs = network.decode(params, cache, prompt[..., :-1], 0)
        context_value = outputs.value

    def decide(carry, inputs):
        cache, token = carry
        position, seed = inputs
        cache, outputs = network.decode(params, cache, token, position)
        sampled = outputs.policy.sample(seed=seed)
        action = sampled.astype(token.dtype)
        return (cache, action), (action, outputs.policy.log_prob(sampled), outputs.value)

    inputs = context + jnp.arange(length), jax.random.split(key, length)
    _, decided = jax.lax.scan(decide, (cache, prompt[..., -1:]), inputs)
    action, log_prob, value = jax.tree.map(lambda x: x[..., 0], decided)
    return _rollout(jnp.moveaxis(prompt, -1, 0), action, log_prob, value, context_value)


def _rollout(
    prompt: Array, answer: Array, log_prob: Array, value: Array | None, context_value: Array | None
) -> Rollout:
    """The record, of prompts `[P, ...]`, answers `[T, ...]` and, where there is a context, its values `[..., P-1]`."""
    before = jnp.zeros(prompt[1:].shape, bool)
    action = jnp.concatenate([prompt[1:], answer])
    if value is not None and context_value is not None:
        value = jnp.concatenate([jnp.moveaxis(context_value, -1, 0), value])
    last = jnp.zeros(action.shape, bool).at[-1].set(True)
    return Rollout(
        obs=jnp.concatenate([prompt, answer[:-1]]),
        action=action,
        log_prob=jnp.concatenate([before.astype(log_prob.dtype), log_prob]),
        reward=jnp.zeros(action.shape, log_prob.dtype),
        terminated=last,
        truncated=jnp.zeros_like(last),
        next_obs=action,
        mask=jnp.concatenate([before, jnp.ones_like(answer, bool)]),
        value=value,
        next_value=None if value is None else jnp.concatenate([value[1:], jnp.zeros_like(value[:1])]),
    )
