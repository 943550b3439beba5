"""Token policies: a transformer, its sampler, imitation of a reference language, preference pairs."""

from polopt_jax.language._imitation import imitate
from polopt_jax.language._pairs import Preferences, draw_preferences
from polopt_jax.language._sampler import sample_tokens
from polopt_jax.language._transformer import TokenNetwork, transformer

__all__ = ["Preferences", "TokenNetwork", "draw_preferences", "imitate", "sample_tokens", "transformer"]
