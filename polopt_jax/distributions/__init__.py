"""Policies' distributions over one decision: `Categorical`, `MultiCategorical`, `LazyCategorical`, `DiagGaussian`,
`TanhGaussian`.

Three rules hold for all of them. The direction of `kl_divergence(other)` is KL(self ‖ other), and it is exactly
0 where the two are equal. Whatever the dtype of the leaves, arithmetic is done in at least float32. And every
leaf is a float array: illegal actions are folded into the logits as -inf, never kept as a boolean leaf, because
`jax.linear_transpose` (the Fisher operator) needs float outputs.

The names are distrax's and TFP's, so one of theirs can take the place of one of these, except in `where`
and `squash`, which they lack.
"""

from polopt_jax.distributions._categorical import Categorical
from polopt_jax.distributions._gaussian import DiagGaussian, TanhGaussian
from polopt_jax.distributions._gradient_in_forward import gradient_in_forward
from polopt_jax.distributions._lazy_categorical import LazyCategorical
from polopt_jax.distributions._multi_categorical import MultiCategorical

__all__ = [
    "Categorical",
    "DiagGaussian",
    "LazyCategorical",
    "MultiCategorical",
    "TanhGaussian",
    "gradient_in_forward",
]
