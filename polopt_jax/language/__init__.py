"""Token policies: a transformer, its sampler, imitation of a reference language; one that was recorded elsewhere."""

from polopt_jax.language._greedy import greedy_network
from polopt_jax.language._imitation import imitate
from polopt_jax.language._recorded import recorded
from polopt_jax.language._sampler import sample_tokens
from polopt_jax.language._token_table import token_table
from polopt_jax.language._transformer import TokenNetwork, transformer

__all__ = ["TokenNetwork", "greedy_network", "imitate", "recorded", "sample_tokens", "token_table", "transformer"]
