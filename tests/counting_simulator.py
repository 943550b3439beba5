"""Simulators of Gymnasium's whose every step is known beforehand. Light, since processes of their own import it."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text

FREE = Box(-np.inf, np.inf, (2,), np.float64)


class Counting(gymnasium.Env):
    """Observations (episode, step), rewards 10 episode + step.

    Of three episodes the first is terminated after three steps, the second truncated after two, the third both at once,
    after one.
    """

    observation_space, action_space = FREE, Discrete(2)

    def __init__(self):
        self.episode, self.sent = -1, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action):
        self.sent.append(action)
        self.time += 1
        kind = self.episode % 3
        over = self.time == 3 - kind
        return self._obs(), 10.0 * self.episode + self.time, over and kind != 1, over and kind != 0, {}

    def _obs(self):
        return np.array([self.episode, self.time], np.float64)


class Breaking(Counting):
    """As `Counting`, but the second step of the first episode has no reward, the first of the third no observation."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if (self.episode, self.time) == (0, 2):
            reward = np.nan
        if (self.episode, self.time) == (2, 1):
            obs = np.array([2.0, np.inf])
        return obs, reward, terminated, truncated, info


class Drawing(gymnasium.Env):
    """As many steps as are drawn at the beginning, 1 to 20, and so much reward in each; what is seen is from 3 on."""

    observation_space, action_space = Discrete(20, start=3), Discrete(1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.drawn = int(self.np_random.integers(1, 21))
        return np.int64(self.drawn + 2), {}

    def step(self, action):
        self.left -= 1
        return np.int64(self.drawn + 2), float(self.drawn), self.left == 0, False, {}


class Endless(Counting):
    """Never over, and its observation breaks at the hundredth step."""

    def step(self, action):
        self.time += 1
        return np.array([0.0, np.nan if self.time == 100 else 0.0]), 1.0, False, False, {}


class Aiming(gymnasium.Env):
    """One step: the reward is the distance, squared, to 5 plus the sign that is seen. Actions are within [3, 7]."""

    observation_space = Box(-1, 1, (1, 1), np.float32)
    action_space = Box(3.0, 7.0, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign = self.np_random.choice([-1.0, 1.0])
        return np.full((1, 1), self.sign, np.float32), {}

    def step(self, action):
        return np.zeros((1, 1), np.float32), float(-((action[0] - 5 - self.sign) ** 2)), True, False, {}


class Line(gymnasium.Env):
    """Observations (t, t²), rewards t; over after five steps, `terminated` or else truncated. One action."""

    observation_space, action_space = FREE, Discrete(1)

    def __init__(self, terminated):
        self.terminated = terminated

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2), {}

    def step(self, action):
        self.time += 1
        over = self.time == 5
        return np.array([self.time, self.time**2], float), float(self.time), over and self.terminated, over, {}


class Stuck(Counting):
    """Fails at the fifth step that it takes."""

    def step(self, action):
        if len(self.sent) == 4:
            raise RuntimeError("the motor is stuck")
        return super().step(action)


class Drawn(Drawing):
    """A picture [6, 500, 3], every other column of which is as bright as there are steps left."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        picture = np.zeros((6, 500, 3), np.uint8)
        picture[:, ::2] = 10 * self.left
        return picture


def drawn():
    return Drawn(render_mode="rgb_array")


class Nested(Counting):
    observation_space = Dict({"position": Discrete(3)})


class Chosen(Counting):
    action_space = MultiDiscrete([[2, 3]], start=[[0, 5]])


class Switched(Counting):
    action_space = MultiBinary([2, 2])


class Spoken(Counting):
    action_space = Text(3)


class Unrewarded(Counting):
    def step(self, action):
        obs, _, *others = super().step(action)
        return obs, None, *others


class Old(Counting):
    def step(self, action):
        return super().step(action)[:4]


class Outside(Counting):
    observation_space = Discrete(3)

    def _obs(self):
        return np.int64(-1)


class Wider(Counting):
    def _obs(self):
        return np.zeros(3)


def failing():
    return {}["nothing"]


def nothing():
    return 3


gymnasium.register("Counted-v0", entry_point=Counting)
gymnasium.register("Drawn-v0", entry_point=Drawn)
