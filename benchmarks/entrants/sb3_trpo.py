"""SB3-contrib's TRPO: its `train()` on a full buffer of random observations, which is an update without a rollout."""

from typing import Any

import gymnasium
import numpy as np
import torch
from sb3_contrib import TRPO
from stable_baselines3.common.logger import Logger

from benchmarks.entrants.built import Built
from benchmarks.entrants.trpo_update import (
    ACTIONS,
    CG_DAMPING,
    CG_ITERS,
    CRITIC_EPOCHS,
    CRITIC_MINIBATCHES,
    HIDDEN,
    LINE_SEARCH,
    OBS,
    RADIUS,
    random_rollout,
)

DIFFERS = "the value loss is not halved; CG stops where the residual is small; torch with as many threads as cores"
LEARNING_RATE = 1e-3


class Nowhere(gymnasium.Env):
    """Spaces and nothing else."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(OBS, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(OBS, np.float32), 0.0, False, False, {}


def build(*, decisions: int) -> Built:
    torch.manual_seed(0)
    learner = TRPO(
        "MlpPolicy",
        Nowhere(),
        learning_rate=LEARNING_RATE,
        n_steps=decisions,
        batch_size=decisions // CRITIC_MINIBATCHES,
        cg_max_steps=CG_ITERS,
        cg_damping=CG_DAMPING,
        line_search_max_iter=LINE_SEARCH,
        n_critic_updates=CRITIC_EPOCHS,
        target_kl=RADIUS,
        policy_kwargs={"net_arch": {"pi": list(HIDDEN), "vf": list(HIDDEN)}, "activation_fn": torch.nn.Tanh},
        device="cpu",
    )
    learner.set_logger(Logger(folder=None, output_formats=[]))
    learner.policy.set_training_mode(True)
    given = random_rollout(decisions)
    buffer = learner.rollout_buffer
    buffer.reset()
    observations = torch.as_tensor(given["obs"])
    with torch.no_grad():
        distribution = learner.policy.get_distribution(observations)
        actions = distribution.get_actions()
        said = distribution.log_prob(actions)
    fill = {"observations": given["obs"], "actions": actions.numpy(), "log_probs": said.numpy()}
    fill |= {"advantages": given["advantage"], "returns": given["target"], "values": np.zeros(decisions)}
    for name, x in fill.items():
        getattr(buffer, name)[:] = np.asarray(x, np.float32).reshape(getattr(buffer, name).shape)
    buffer.full = True
    start = {name: x.clone() for name, x in learner.policy.state_dict().items()}

    def chunk() -> dict[str, Any]:
        learner.policy.load_state_dict(start)  # every update is the first, or the policy would run away from the data
        learner.train()
        return {"kl": float(learner.logger.name_to_value["train/kl_divergence_loss"])}

    return Built(chunk, decisions, 1, DIFFERS)
