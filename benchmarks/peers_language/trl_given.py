"""TRL's loss and gradient of given logits, as it would be timed: float32, its own log-softmax, or torch's fastest."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from trl import DPOTrainer, GRPOTrainer
from trl.trainer.utils import selective_log_softmax

from benchmarks.peers_language.trl_groups import clipped
from benchmarks.peers_language.trl_trainers import ints, trainer


def cross_entropy(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return -F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)


class Given:
    """A model that says the log-probabilities of a completion, given its logits `[rows, time, V]`."""

    training = True
    is_gradient_checkpointing = False

    def __init__(self, logits: torch.Tensor, log_softmax: Callable[..., torch.Tensor]) -> None:
        self.logits, self.log_softmax = logits, log_softmax

    def __call__(self, input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
        log_probs = self.log_softmax(self.logits, input_ids[:, 1:]).masked_fill(labels[:, 1:] == -100, 0.0)
        nothing = torch.zeros_like(log_probs)  # the rest is read for the log alone
        return SimpleNamespace(log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())


def _grpo(model: Given, batch: Any, eps: float, beta: float) -> Callable[[], torch.Tensor]:
    options = dict(loss_type="grpo", epsilon=eps, beta=beta, use_bias_correction_kl=False)
    found = clipped(trainer(GRPOTrainer, model, **options))
    rows = len(batch.action)
    ids, mask = ints(batch.action), ints(batch.mask)
    inputs = {
        "prompt_ids": ids.new_zeros((rows, 1)),
        "prompt_mask": ids.new_ones((rows, 1)),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.as_tensor(np.array(batch.advantage[:, 0])),
        "old_per_token_logps": torch.as_tensor(np.array(batch.log_prob)),
        "ref_per_token_logps": torch.as_tensor(np.array(batch.ref_log_prob)),
        "num_items_in_batch": mask.sum(),
    }
    return lambda: found._compute_loss(model, inputs)


def _dpo(model: Given, batch: Any, beta: float) -> Callable[[], torch.Tensor]:
    found = trainer(DPOTrainer, model, beta=beta)
    found.loss_types, found.loss_weights, found.precompute_ref_logps = ["sigmoid"], [1.0], True
    rows = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
    ids, mask = ints(rows(batch.action)), ints(rows(batch.mask))
    whole, learnt = F.pad(ids, (1, 0)), F.pad(mask, (1, 0))
    chosen, rejected = torch.as_tensor((batch.ref_log_prob * batch.mask).sum(-1))
    inputs = {
        "input_ids": whole,
        "attention_mask": torch.ones_like(whole),
        "completion_mask": learnt,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    return lambda: found._compute_loss(model, inputs, return_outputs=False)


def variants(
    loss: str, logits: np.ndarray, batch: Any, eps: float, beta: float, dpo_beta: float
) -> dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]]:
    """`run()` that gives the loss and its gradient, for TRL's own log-softmax and for torch's cross-entropy."""
    leaf = torch.tensor(logits.reshape(-1, *logits.shape[-2:])).requires_grad_()

    def run_with(log_softmax: Callable[..., torch.Tensor]) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        model = Given(leaf, log_softmax)
        compute = _dpo(model, batch, dpo_beta) if loss == "dpo" else _grpo(model, batch, eps, beta)

        def run() -> tuple[np.ndarray, np.ndarray]:
            value = compute()
            (gradient,) = torch.autograd.grad(value, leaf)
            return value.detach().numpy(), gradient.numpy()

        return run

    return {"trl": run_with(selective_log_softmax), "torch": run_with(cross_entropy)}
