"""A token policy that says what is most probable."""

from __future__ import annotations

from typing import Any

from polopt_jax.language._transformer import TokenNetwork
from polopt_jax.policies import greedy
from polopt_jax.types import Outputs, Params


def greedy_network(network: TokenNetwork) -> TokenNetwork:
    """The same network, whose samples are its most probable tokens: `sample_tokens` then decodes greedily.

    >>> import jax
    >>> from polopt_jax.language import sample_tokens, transformer
    >>> network = transformer(vocab_size=5, num_outputs=3, max_length=6, width=8, depth=1)
    >>> params, prompt = jax.jit(network.init)(jax.random.key(0)), jax.numpy.array([[4]])
    >>> said = [sample_tokens(greedy_network(network), params, prompt, jax.random.key(i), length=5) for i in range(2)]
    >>> said[0].action.tolist() == said[1].action.tolist()
    True
    """

    def decode(params: Params, cache: Any, *arguments: Any) -> tuple[Any, Outputs]:
        cache, outputs = network.decode(params, cache, *arguments)
        return cache, greedy(lambda: outputs)()

    return network._replace(apply=greedy(network.apply), decode=decode)
