"""How a token policy is sampled: at another temperature, and of its more probable tokens alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.distributions import Categorical, LazyCategorical
from polopt_jax.language._transformer import TokenNetwork
from polopt_jax.ranges import Positive, check_range
from polopt_jax.types import Array, ArrayLike, Obs, Outputs, Params


def tempered_network(
    network: TokenNetwork, *, temperature: Positive = 1.0, top_k: int | None = None, top_p: ArrayLike | None = None
) -> TokenNetwork:
    """The same network at another temperature, and restricted to its more probable tokens.

        π'(a) ∝ π(a)^{1/temperature} over the top_k most probable a, then over the fewest that have mass top_p

    `decode` and `apply` both speak so. So what `sample_tokens` records is what the training pass of the same network
    says again, and a ratio to it begins at 1; the network that it was made of says what it always said.

    A restricted policy has tokens of probability 0, and an update may move a token that was sampled out of it: its
    log-probability is -inf then, and a KL infinite. Sample from the restricted network and train the other one, with
    `batch.sampler_log_prob` from here (`truncated_importance_sampling`), where that may happen.

    Args:
      temperature: above 0; below 1 the policy is sharper. May be traced.
      top_k: how many tokens are kept, None for all; of equal ones all are kept that are as probable as the k-th.
      top_p: mass of the tokens that are kept, in (0, 1], None for all; the one that reaches it is kept. May be traced.

    Raises: ValueError if a number is out of range (where it is concrete).

    Source: Holtzman et al. 2020 (top-p), Fan et al. 2018 (top-k).

    >>> from polopt_jax.language import transformer
    >>> network = transformer(vocab_size=5, num_outputs=3, max_length=6, width=8, depth=1)
    >>> params, tokens = jax.jit(network.init)(jax.random.key(0)), jnp.array([[4, 0]])
    >>> said = jax.jit(tempered_network(network, top_k=1).apply)(params, tokens).policy
    >>> said.log_prob(jax.jit(network.apply)(params, tokens).policy.mode()).tolist()
    [[0.0, 0.0]]
    """
    check_range("tempered_network", Positive, temperature=temperature)
    if top_k is not None and top_k < 1:
        raise ValueError(f"tempered_network: top_k must be at least 1; it is {top_k}")
    if isinstance(top_p, int | float) and not 0 < top_p <= 1:
        raise ValueError(f"tempered_network: top_p must be above 0 and at most 1; it is {top_p}")

    def tempered(outputs: Outputs) -> Outputs:
        policy = _sharpened(outputs.policy, temperature)
        if top_k is not None:
            policy = _top_k(policy, top_k)
        if top_p is not None:
            policy = _top_p(policy, top_p)
        return Outputs(policy=policy, value=outputs.value, value_logits=outputs.value_logits)

    def apply(params: Params, obs: Obs) -> Outputs:
        return tempered(network.apply(params, obs))

    def decode(params: Params, cache: Any, tokens: Any, place: ArrayLike) -> tuple[Any, Outputs]:
        cache, outputs = network.decode(params, cache, tokens, place)
        return cache, tempered(outputs)

    return network._replace(apply=apply, decode=decode)


def _sharpened(policy: Categorical | LazyCategorical, temperature: ArrayLike) -> Categorical | LazyCategorical:
    """π^{1/temperature}, normalised; one that is lazy stays so."""
    if isinstance(policy, LazyCategorical):
        return LazyCategorical(hidden=policy.hidden / temperature, unembedding=policy.unembedding)
    return Categorical(logits=policy.logits / temperature)


def _top_k(policy: Categorical | LazyCategorical, k: int) -> Categorical:
    logits = policy.logits
    if k >= logits.shape[-1]:
        return Categorical(logits=logits)
    least = jax.lax.top_k(jax.lax.stop_gradient(logits), k)[0][..., -1:]
    return Categorical(logits=logits).only(logits >= least)


def _top_p(policy: Categorical | LazyCategorical, mass: ArrayLike) -> Categorical:
    logits = policy.logits
    probability = jax.nn.softmax(jax.lax.stop_gradient(logits), axis=-1)
    ordered = -jnp.sort(-probability, axis=-1)
    from_here: Array = jnp.cumsum(ordered[..., ::-1], axis=-1)[..., ::-1]  # of the small ones first, to the last digit
    kept = (from_here > 1 - mass).at[..., 0].set(True)
    least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return Categorical(logits=logits).only(probability >= least)
