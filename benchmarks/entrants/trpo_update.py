"""What an update of TRPO is made of, wherever it is made: sizes, settings, and data."""

from typing import Any, Final

import numpy as np

OBS: Final = 87
ACTIONS: Final = 8
HIDDEN: Final = (256, 256)
CG_ITERS: Final = 10
CG_DAMPING: Final = 0.1
RADIUS: Final = 0.01
LINE_SEARCH: Final = 10
CRITIC_EPOCHS: Final = 2
CRITIC_MINIBATCHES: Final = 4


def random_rollout(decisions: int) -> dict[str, Any]:
    """Observations `[decisions, OBS]`, and advantages and value targets, of which a policy can learn something."""
    draw = np.random.default_rng(0)
    obs = draw.normal(size=(decisions, OBS)).astype(np.float32)
    advantage = (obs[:, 0] + draw.normal(size=decisions)).astype(np.float32)
    return {"obs": obs, "advantage": advantage, "target": (obs[:, 1] + advantage).astype(np.float32)}
