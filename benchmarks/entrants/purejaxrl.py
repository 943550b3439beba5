"""PureJaxRL's PPO for real actions, from a copy of its repository (`--purejaxrl`), of which nothing is changed on disk.

Its network of 256 units is as wide as everybody's here, and its environments have the backend that is asked for. It
imports a library of worlds that it doesn't need here; an empty module stands for it where it is not installed.
"""

import sys
from functools import partial
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from benchmarks.entrants import (
    CLIP,
    GAMMA,
    HIDDEN,
    LAMBDA,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    NUM_EPOCHS,
    NUM_MINIBATCHES,
    NUM_STEPS,
    VALUE_WEIGHT,
)
from benchmarks.entrants.built import Built, returns

DIFFERS = (
    "decisions are shuffled, values clipped, advantages standardised per minibatch; no entropy or KL is measured; "
    "what every step reported is returned; each chunk begins anew, with one more reset"
)
WIDE = 256
"""The width that is written into its network."""


def build(
    *, env: str, backend: str, num_envs: int, updates: int, source: str, seeds: int = 1, slices: int = 0
) -> Built:
    module = _imported(source, backend)
    settings = {
        "LR": LEARNING_RATE,
        "NUM_ENVS": num_envs,
        "NUM_STEPS": NUM_STEPS,
        "TOTAL_TIMESTEPS": updates * NUM_STEPS * num_envs,
        "UPDATE_EPOCHS": NUM_EPOCHS,
        "NUM_MINIBATCHES": NUM_MINIBATCHES,
        "GAMMA": GAMMA,
        "GAE_LAMBDA": LAMBDA,
        "CLIP_EPS": CLIP,
        "ENT_COEF": 0.0,
        "VF_COEF": VALUE_WEIGHT,
        "MAX_GRAD_NORM": MAX_GRAD_NORM,
        "ACTIVATION": "tanh",
        "ENV_NAME": env,
        "ANNEAL_LR": False,
        "NORMALIZE_ENV": True,
        "DEBUG": False,
    }
    train = module.make_train(settings)
    keys = jax.random.split(jax.random.PRNGKey(0), seeds)
    over = jax.vmap(train) if seeds > 1 else lambda keys: train(keys[0])
    compiled = jax.jit(over).lower(keys).compile()

    def chunk() -> dict[str, Any] | None:
        seen = jax.block_until_ready(compiled(keys))["metrics"]
        if not slices:
            return None
        ended = seen["returned_episode"]
        of_updates = lambda x: np.asarray(x.sum((-2, -1))).reshape(seeds, updates)  # noqa: E731
        return returns(of_updates(seen["returned_episode_returns"] * ended), of_updates(ended), slices)

    return Built(chunk, seeds * updates * NUM_STEPS * num_envs, updates, DIFFERS)


def _imported(source: str, backend: str) -> Any:
    """Its module, with layers of our width and the backend that is asked for."""
    sys.path.insert(0, source)
    try:
        import navix  # noqa: F401
    except ImportError:
        sys.modules["navix"] = ModuleType("navix")
    import ppo_continuous_action as module

    dense, width = nn.Dense, HIDDEN[0]
    narrow = ModuleType("flax.linen")
    narrow.__dict__.update(vars(nn))
    narrow.Dense = lambda features, **own: dense(width if features == WIDE else features, **own)  # type: ignore[attr-defined]
    module.nn = narrow
    module.BraxGymnaxWrapper = partial(module.BraxGymnaxWrapper, backend=backend)
    return module
