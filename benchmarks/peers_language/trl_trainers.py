"""TRL's trainers made to say their loss of given logits: the real methods, of an instance that was never set up.

A trainer's `__init__` loads a model, a tokenizer and a data set; its `_compute_loss` needs none of them. So the
instance is made without `__init__`, with the options of a real config and what `__init__` derives from them. The model
is a function that returns the logits it was given, and of them what TRL's head returns, by TRL's own functions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from accelerate import Accelerator
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.experimental.tpo import TPOConfig, TPOTrainer
from trl.trainer.utils import selective_log_softmax_and_entropy

from benchmarks.peers_language.examples import Labelled, Pairs, Texts

CONFIGS = {
    DPOTrainer: DPOConfig,
    KTOTrainer: KTOConfig,
    GRPOTrainer: GRPOConfig,
    RLOOTrainer: RLOOConfig,
    CPOTrainer: CPOConfig,
    ORPOTrainer: ORPOConfig,
    TPOTrainer: TPOConfig,
    GMPOTrainer: GMPOConfig,
}


@contextmanager
def float64() -> Iterator[None]:
    """New tensors are float64, and where TRL rounds to float32 (`x.float()`) it does not: digits can be compared."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(before)


def value_and_gradient(
    loss: Callable[[Any, torch.Tensor], torch.Tensor], example: Any, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of a loss of `(example, logits)`; in float32 everything is left as TRL has it."""
    with float64() if at.dtype == np.float64 else nullcontext():
        logits = torch.as_tensor(at).requires_grad_()
        value = loss(example, logits)
        (gradient,) = torch.autograd.grad(value, logits)
    return value.detach().numpy(), gradient.numpy()


def ints(x: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(x), dtype=torch.long)


def floats(x: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(x), dtype=torch.get_default_dtype())


class Given:
    """A model that says given logits of given ids: `(ids, logits)`, any number of them."""

    training = True
    is_gradient_checkpointing = False

    def __init__(self, *said: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.said = said

    def __call__(self, input_ids: torch.Tensor, labels: Any = None, fused_lm_head: Any = None, **_: Any) -> Any:
        (logits,) = (logits for ids, logits in self.said if torch.equal(ids, input_ids))
        if not fused_lm_head:
            return SimpleNamespace(logits=logits)
        logits, labels = logits[:, :-1], labels[:, 1:]
        scored = labels != -100
        log_probs, entropy = selective_log_softmax_and_entropy(logits, labels.clamp(min=0))
        nothing = torch.zeros_like(log_probs)
        return SimpleNamespace(
            log_probs=log_probs.masked_fill(~scored, 0.0),
            entropy=entropy.masked_fill(~scored, 0.0),
            mean_logits=nothing,  # read for the log alone, as is the next
            is_top1=nothing.bool(),
            log_sum_sq_probs=None,
        )


def trainer(kind: type, model: Given, ref_model: Given | None = None, **options: Any) -> Any:
    """An instance of a trainer class with the options of its config, of which `options` are not the default."""
    found = object.__new__(kind)
    args = CONFIGS[kind](output_dir="unused", report_to="none", bf16=False, use_cpu=True, **options)
    found.__dict__.update(vars(args))
    found.__dict__.update(
        args=args,
        accelerator=Accelerator(cpu=True),
        model=model,
        ref_model=ref_model,
        state=SimpleNamespace(global_step=0),
        aux_loss_enabled=False,
        is_encoder_decoder=False,
        pad_token_id=0,
        padding_value=0,
        current_gradient_accumulation_steps=1,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    return found


def inputs_of(texts: Texts, prefix: str = "") -> dict[str, torch.Tensor]:
    """Ids and masks of whole texts."""
    fields = {"input_ids": texts.ids, "attention_mask": texts.attended, "completion_mask": texts.learnt}
    return {prefix + name: ints(x) for name, x in fields.items()}


def dpo(pairs: Pairs, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    """`DPOTrainer`'s loss."""
    ids = ints(pairs.texts.ids)
    model, ref_model = Given((ids, logits)), Given((ids, floats(pairs.texts.ref_logits).to(logits)))
    found = trainer(DPOTrainer, model, ref_model, **options)
    found.loss_types = [found.loss_type] if isinstance(found.loss_type, str) else found.loss_type
    found.loss_weights = found.loss_weights or [1.0] * len(found.loss_types)
    found.precompute_ref_logps = False
    return found._compute_loss(found.model, inputs_of(pairs.texts), return_outputs=False)


def tpo(pairs: Pairs, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    """`TPOTrainer`'s loss without its third, golden row: `tpo_alpha` is 0."""
    found = trainer(TPOTrainer, Given((ints(pairs.texts.ids), logits)), tpo_alpha=0.0, **options)
    return found._compute_loss(found.model, inputs_of(pairs.texts), return_outputs=False)


def without_reference(kind: type, pairs: Pairs, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    """`CPOTrainer`'s or `ORPOTrainer`'s loss."""
    found = trainer(kind, Given((ints(pairs.texts.ids), logits)), **options)
    rows, batch = len(logits) // 2, {}
    for name, half in (("chosen", slice(None, rows)), ("rejected", slice(rows, None))):
        whole = {key: x[half] for key, x in inputs_of(pairs.texts).items()}
        batch[f"{name}_labels"] = whole["input_ids"].masked_fill(whole["completion_mask"] == 0, -100)
        batch |= {f"{name}_{key}": whole[key] for key in ("input_ids", "attention_mask")}
    return found.get_batch_loss_metrics(found.model, batch)[0]


def cpo(pairs: Pairs, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    return without_reference(CPOTrainer, pairs, logits, **options)


def orpo(pairs: Pairs, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    return without_reference(ORPOTrainer, pairs, logits, **options)


def kto(rows: Labelled, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    """`KTOTrainer`'s loss, its reference point from the mismatched rows."""
    model, ref_model = (
        Given((ints(rows.texts.ids), said), (ints(rows.mismatched.ids), floats(mismatched)))
        for said, mismatched in (
            (logits, rows.mismatched.logits),
            (floats(rows.texts.ref_logits), rows.mismatched.ref_logits),
        )
    )
    found = trainer(KTOTrainer, model, ref_model, **options)
    found.calculate_KL = found.loss_type == "kto"
    found.precompute_ref_logps = False
    batch = inputs_of(rows.texts) | inputs_of(rows.mismatched, "KL_") | {"label": torch.as_tensor(rows.label)}
    return found._compute_loss(found.model, batch, return_outputs=False)
