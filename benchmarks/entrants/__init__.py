"""Programs that train, each in a process of its own, so that peers keep their own environments: `__main__` says how.

Every one of them learns with the settings below, as far as it can; what still differs it says itself.
"""

from typing import Final

NUM_STEPS: Final = 16
NUM_EPOCHS: Final = 4
NUM_MINIBATCHES: Final = 8
HIDDEN: Final = (64, 64)
INITIAL_LOG_STD: Final = 0.0
"""Of the first policy, where that is a parameter. This library's own default is narrower."""
LEARNING_RATE: Final = 3e-4
CLIP: Final = 0.2
GAMMA: Final = 0.99
LAMBDA: Final = 0.95
VALUE_WEIGHT: Final = 0.5
MAX_GRAD_NORM: Final = 0.5
EPISODE_LENGTH: Final = 1000
