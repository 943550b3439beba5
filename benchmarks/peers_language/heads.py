"""A row of the table: the head of a language model, whose logits neither library stores."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import polopt_jax as po
from benchmarks.peers_language.agreement import Loss

ROWS, LENGTH, WIDTH, VOCABULARY = 40, 9, 5, 30


@dataclass(frozen=True)
class Head:
    """Hidden states `[ROWS, LENGTH, WIDTH]` and an unembedding `[VOCABULARY, WIDTH]`, in one vector, as `at`."""

    at: np.ndarray
    ids: np.ndarray
    weight: np.ndarray
    """`[2, ROWS, LENGTH - 1]`: what log-probabilities and entropies count in the loss."""

    def split(self, at: Any) -> tuple[Any, Any]:
        cut = ROWS * LENGTH * WIDTH
        return at[:cut].reshape(ROWS, LENGTH, WIDTH), at[cut:].reshape(VOCABULARY, WIDTH)


def head(seed: int) -> Head:
    rng = np.random.default_rng(seed)
    at = rng.normal(size=ROWS * LENGTH * WIDTH + VOCABULARY * WIDTH)
    return Head(at, rng.integers(VOCABULARY, size=(ROWS, LENGTH)), rng.normal(size=(2, ROWS, LENGTH - 1)))


def lazy(example: Head, at: jax.Array) -> jax.Array:
    hidden, unembedding = example.split(at)
    policy = po.LazyCategorical(hidden=hidden[:, :-1], unembedding=unembedding.T)
    said = jnp.stack([policy.log_prob(jnp.asarray(example.ids[:, 1:])), policy.entropy()])
    return (jnp.asarray(example.weight, at.dtype) * said).sum()


def fused(example: Head, at: Any) -> Any:
    import torch
    from trl.trainer.utils import add_fused_lm_head

    hidden, unembedding = example.split(at)
    config = SimpleNamespace(model_type="given")
    config.get_text_config = lambda: config

    class Model(torch.nn.Module):
        base_model = staticmethod(lambda *_, **__: SimpleNamespace(last_hidden_state=hidden))

        def forward(self) -> None: ...

        def get_output_embeddings(self) -> Any:
            return SimpleNamespace(weight=unembedding, bias=None)

    model = Model()
    model.config = config
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    said = model(labels=torch.as_tensor(example.ids), fused_lm_head=True)
    weight = torch.as_tensor(example.weight, dtype=at.dtype)
    return (weight[0] * said.log_probs + weight[1] * said.entropy).sum()


HEAD_ROWS = [
    Loss(
        "LazyCategorical: log_prob, entropy",
        "`add_fused_lm_head`",
        lazy,
        fused,
        head,
        "theirs adds up in float32 whatever it is given, so both are in float32 here; of hidden states and unembedding",
        np.float32,
    )
]
