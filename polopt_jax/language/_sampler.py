"""Sampling token sequences from a model that decodes one token at a time."""

import jax
import jax.numpy as jnp

from polopt_jax.language._transformer import TokenNetwork
from polopt_jax.types import Array, Params, Rollout


def sample_tokens(network: TokenNetwork, params: Params, prompt: Array, key: Array, *, length: int) -> Rollout:
    """Samples `length` tokens after each prompt token, as one episode per row.

        a_t ~ π(· | prompt, a_0 .. a_{t-1}),    obs_0 = prompt,  obs_{t+1} = a_t

    Takes `prompt` `[...]` (integer ids of any row axes; one token, such as a start token or the identity of a
    question), one key, and a static `length` T. Returns a time-major `Rollout`, every field `[T, ...]`: `[T, B]` for a
    vector of prompts, `[T, N, G]` for groups, `[T, 2, N]` for pairs.

    * `obs` the input tokens, `action` the sampled ones (in the dtype of `prompt`), `next_obs` the next input token;
    * `log_prob` and `value` as the network gave them when it sampled, `next_value` the value one step later, 0 after
      the last (None where the network has no critic);
    * `terminated` True at the last step, `truncated` False, `mask` True;
    * `reward` zeros: score the finished sequences, then `dataclasses.replace(rollout, reward=...)`.

    In rows `[..., T]` of such a rollout (`to_batch`) `network.apply` gives the recorded log-probabilities again, up to
    rounding.

    Raises `ValueError` unless prompt is an integer array with a row axis and 1 <= length <= network.max_length.

    >>> from polopt_jax.language import transformer
    >>> network = transformer(vocab_size=4, num_outputs=3, max_length=5, width=8, depth=1)
    >>> start, key = jnp.full(2, 3), jax.random.key(0)
    >>> params = jax.jit(network.init)(key)
    >>> rollout = sample_tokens(network, params, start, key, length=5)
    >>> rollout.action.shape, bool((rollout.obs[1:] == rollout.action[:-1]).all())
    ((5, 2), True)
    """
    if prompt.ndim < 1 or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise ValueError(f"prompt must be integer tokens with a row axis; it is {prompt.dtype}{list(prompt.shape)}")
    if not 1 <= length <= network.max_length:
        raise ValueError(f"length must be in 1 .. {network.max_length} (network.max_length); it is {length}")

    def decide(carry, inputs):
        cache, token = carry
        position, seed = inputs
        cache, outputs = network.decode(params, cache, token, position)
        sampled = outputs.policy.sample(seed=seed)
        action = sampled.astype(token.dtype)
        return (cache, action), (token, action, outputs.policy.log_prob(sampled), outputs.value)

    inputs = jnp.arange(length), jax.random.split(key, length)
    carry = network.init_cache(prompt.shape), prompt
    _, (obs, action, log_prob, value) = jax.lax.scan(decide, carry, inputs)
    last = jnp.zeros(action.shape, bool).at[-1].set(True)
    return Rollout(
        obs=obs,
        action=action,
        log_prob=log_prob,
        reward=jnp.zeros(action.shape, log_prob.dtype),
        terminated=last,
        truncated=jnp.zeros_like(last),
        next_obs=action,
        mask=jnp.ones_like(last),
        value=value,
        next_value=None if value is None else jnp.concatenate([value[1:], jnp.zeros_like(value[:1])]),
    )
