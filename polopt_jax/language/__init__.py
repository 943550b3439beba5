"""Token policies: a transformer, its sampler, imitation of a reference language."""

from polopt_jax.language._imitation import imitate
from polopt_jax.language._sampler import sample_tokens
from polopt_jax.language._token_table import token_table
from polopt_jax.language._transformer import TokenNetwork, transformer

__all__ = ["TokenNetwork", "imitate", "sample_tokens", "token_table", "transformer"]
