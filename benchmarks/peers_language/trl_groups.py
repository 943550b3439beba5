"""TRL's trainers over groups of attempts: their loss of given logits, and their advantages of given rewards."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from trl import GRPOTrainer, RLOOTrainer
from trl.experimental.gmpo import GMPOTrainer

from benchmarks.peers_language.examples import ATTEMPTS, PROMPT, ROWS, Groups
from benchmarks.peers_language.trl_trainers import Given, floats, ints, trainer


def over_groups(kind: type, groups: Groups, logits: torch.Tensor, **options: Any) -> Any:
    """An instance with what `__init__` derives from the options that a loss over groups reads."""
    ids = ints(groups.texts.ids)
    sizes = dict(per_device_train_batch_size=ROWS, num_generations=ATTEMPTS)
    model, ref_model = Given((ids, logits)), Given((ids, floats(groups.texts.ref_logits)))
    return clipped(trainer(kind, model, ref_model, **sizes, **options))


def clipped(found: Any) -> Any:
    """The trainer with the names that `__init__` gives to its options."""
    args = found.args
    found.epsilon_low = args.epsilon
    found.epsilon_high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    found._entropy_bonus_enabled = getattr(args, "entropy_coef", 0.0) != 0.0
    return found


def inputs_of(groups: Groups, found: Any) -> dict[str, torch.Tensor]:
    """What the trainer would have made of a generation: everything but the advantages comes from the example."""
    ids, attended = ints(groups.texts.ids), ints(groups.texts.attended)
    with torch.no_grad():
        ref = found._get_per_token_logps_and_entropies(found.ref_model, ids, attended, ids.shape[1] - PROMPT)[0]
    return {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": attended[:, :PROMPT],
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": attended[:, PROMPT:],
        "tool_mask": ints(groups.tool),
        "advantages": floats(groups.advantage),
        "old_per_token_logps": floats(groups.old_log_prob),
        "ref_per_token_logps": ref,
        "num_items_in_batch": torch.as_tensor(groups.mask.sum()),
    }


def grpo(groups: Groups, logits: torch.Tensor, *, kind: type = GRPOTrainer, **options: Any) -> torch.Tensor:
    """`GRPOTrainer`'s loss of a batch of attempts."""
    found = over_groups(kind, groups, logits, **options)
    return found._compute_loss(found.model, inputs_of(groups, found))


def gmpo(groups: Groups, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    """`GMPOTrainer`'s."""
    return grpo(groups, logits, kind=GMPOTrainer, **options)


def grpo_of_sampler(groups: Groups, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    """The same, given what the engine that sampled said of its tokens."""
    found = over_groups(GRPOTrainer, groups, logits, **options)
    inputs = inputs_of(groups, found) | {"sampling_per_token_logps": floats(groups.sampler_log_prob)}
    return found._compute_loss(found.model, inputs)


def grpo_in_two(groups: Groups, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    """The sum of what two micro-batches of one optimizer step add to the gradient."""
    found = over_groups(GRPOTrainer, groups, logits, **options)
    found.current_gradient_accumulation_steps = 2
    found.args.steps_per_generation = 2
    inputs = inputs_of(groups, found)
    total = torch.zeros(())
    for half in (slice(None, len(logits) // 2), slice(len(logits) // 2, None)):
        found.model = Given((ints(groups.texts.ids)[half], logits[half]))
        part = {name: x if name == "num_items_in_batch" else x[half] for name, x in inputs.items()}
        total = total + found._compute_loss(found.model, part)
    return total


def rloo(groups: Groups, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    """`RLOOTrainer`'s loss, which knows no tokens of tools."""
    found = over_groups(RLOOTrainer, groups, logits, **options)
    inputs = inputs_of(groups, found)
    old = (inputs["old_per_token_logps"] * inputs["completion_mask"]).sum(1)
    return found._compute_loss(found.model, inputs | {"old_logps": old})


def generated(
    kind: type, groups: Groups, reward: np.ndarray, *, weight: np.ndarray | None = None, **options: Any
) -> tuple[Any, dict[str, torch.Tensor]]:
    """`(trainer, inputs)`: what `_generate_and_score_completions` makes of rewards `[ROWS, K]`, advantages among it.

    Attempts and rewards are the example's, in place of a generation and of reward functions; the policy is the one
    before the update.
    """
    ids, learnt, number = groups.texts.ids, groups.texts.learnt, reward.shape[1]
    prompts = [row[:PROMPT].tolist() for row in ids]
    completions = [row[keep].tolist() for row, keep in zip(ids, learnt, strict=True)]
    tools, sampled = (
        [row[: len(said)].tolist() for row, said in zip(x, completions, strict=True)]
        for x in (groups.tool.astype(int), groups.sampler_log_prob)
    )
    words = [""] * len(ids)
    found = over_groups(kind, groups, floats(groups.old_logits), **options)
    rest = () if kind is RLOOTrainer else (sampled, {}, None, [])
    found.__dict__.update(
        _generate=lambda _: (prompts, completions, *(() if kind is RLOOTrainer else (tools,)), words, *rest),
        _calculate_rewards=lambda *_: floats(reward),
        reward_weights=floats(np.ones(number) if weight is None else weight),
        reward_func_names=[str(k) for k in range(number)],
        reward_funcs=[None] * number,
        environment_factories=None,
        environments=None,
        tools=None,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _is_vlm=False,
        _logs={"prompt": [], "completion": [], "advantages": [], "rewards": defaultdict(list)},
        _pending_extra_logs={},
        _pending_metrics={},
    )
    return found, found._generate_and_score_completions([{"prompt": ""}] * len(ids))


def grpo_of_engine(groups: Groups, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    """`GRPOTrainer`'s loss of attempts of another engine than the one that trains, corrected for that."""
    options = {"use_vllm": True, "vllm_importance_sampling_clip_min": None} | options
    found, inputs = generated(GRPOTrainer, groups, np.zeros((len(logits), 1)), **options)
    found.model = Given((ints(groups.texts.ids), logits))
    return found._compute_loss(found.model, inputs | {"advantages": floats(groups.advantage)})


def advantages(groups: Groups, reward: np.ndarray, **options: Any) -> np.ndarray:
    """`GRPOTrainer`'s advantages `[ROWS]` of rewards `[ROWS, K]`."""
    return generated(GRPOTrainer, groups, reward, **options)[1]["advantages"].numpy()


def rloo_advantages(groups: Groups, reward: np.ndarray, **options: Any) -> np.ndarray:
    """`RLOOTrainer`'s."""
    return generated(RLOOTrainer, groups, reward, **options)[1]["advantages"].numpy()
