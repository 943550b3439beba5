"""TRL's loss and gradient of given logits, as its trainers have it: with its own log-softmax, or torch's fastest."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from trl import DPOTrainer, GRPOTrainer
from trl.trainer.utils import selective_log_softmax

from benchmarks.entrants.built import Built
from benchmarks.entrants.token_loss import BETA, CLIP, DPO, DPO_BETA, GRPO, answer, example
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


def _grpo(model: Given, batch: Any) -> Callable[[], torch.Tensor]:
    options = dict(loss_type="grpo", epsilon=CLIP, beta=BETA, use_bias_correction_kl=False)
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


def _dpo(model: Given, batch: Any) -> Callable[[], torch.Tensor]:
    found = trainer(DPOTrainer, model, beta=DPO_BETA)
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


LOG_SOFTMAXES = {"trl": selective_log_softmax, "cross_entropy": cross_entropy}


def build(*, loss: str, rows: int, length: int, vocabulary: int, calls: int, log_softmax: str) -> Built:
    """`log_softmax`: TRL's own, or torch's fastest in its place."""
    given = SimpleNamespace(**example(loss, rows, length, vocabulary))
    leaf = torch.tensor(given.logits.reshape(-1, length, vocabulary)).requires_grad_()
    model = Given(leaf, LOG_SOFTMAXES[log_softmax])
    compute = {GRPO: _grpo, DPO: _dpo}[loss](model, given)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        value = compute()
        return value.detach(), torch.autograd.grad(value, leaf)[0]

    def chunk() -> None:
        for _ in range(calls):
            run()

    return Built(chunk, calls * rows * length, calls, "", answer(*(x.numpy() for x in run())))
