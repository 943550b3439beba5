"""A loss of given logits, wherever it is computed: settings, data, and what is told of the answer."""

from typing import Any, Final

import numpy as np

GRPO, DPO = "grpo", "dpo"
CLIP: Final = 0.2
BETA: Final = 0.04
DPO_BETA: Final = 0.1
TOLD: Final = 1000
"""Entries of the gradient that are told."""


def example(loss: str, rows: int, length: int, vocabulary: int) -> dict[str, Any]:
    """Logits `[rows, length, V]`, and rows of which a half to the whole is real; DPO's are `[2, rows / 2, ...]`."""
    draw = np.random.default_rng(0)
    leading = (2, rows // 2) if loss == DPO else (rows,)

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal((*leading, *shape), dtype=np.float32)

    typical = -np.log(vocabulary, dtype=np.float32)
    real = draw.integers(length // 2, length, size=leading, endpoint=True)
    return {
        "logits": normal(length, vocabulary),
        "action": draw.integers(1, vocabulary, size=(*leading, length), dtype=np.int32),
        "mask": np.arange(length) < real[..., None],
        "advantage": np.broadcast_to(normal(1), (*leading, length)),
        "log_prob": typical + normal(length),
        "ref_log_prob": typical + normal(length),
    }


def answer(value: Any, gradient: Any) -> dict[str, Any]:
    """Enough of the loss and its gradient with respect to the logits to see that two programs compute the same."""
    entries = np.asarray(gradient).reshape(-1)
    return {"value": float(value), "norm": float(np.linalg.norm(entries)), "entries": entries[:TOLD].tolist()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether they do, as far as float32 goes."""
    size = np.abs(one["entries"]).max()
    return bool(
        np.isclose(one["value"], other["value"], rtol=1e-4)
        and np.isclose(one["norm"], other["norm"], rtol=1e-3)
        and np.allclose(one["entries"], other["entries"], atol=1e-4 * size)
    )
