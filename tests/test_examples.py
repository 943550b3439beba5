"""Every file of `examples/` is run at a small size, and has to learn what it says it learns."""

import importlib.util
import runpy
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax.envs import TimeLimit

FOLDER = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_has_a_test():
    own = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in FOLDER.glob("*.py")} <= own


def test_own_loop(capsys):
    rewards = example("own_loop").main(num_envs=32, updates=20)
    assert rewards[0] < -0.2
    assert rewards[-1] > -0.1
    assert capsys.readouterr().out.count("update ") == 2


def test_gymnasium_loop():
    """A pole balanced at random stays up for some 20 steps."""
    gymnasium = pytest.importorskip("gymnasium")
    assert gymnasium.spec("CartPole-v1").max_episode_steps == 500
    returns = example("gymnasium_loop").main(num_envs=4, num_steps=128, updates=12)
    assert returns[0] < 40
    assert max(returns[-4:]) > 70


def test_memory(capsys):
    """Who does not remember says half of the bits."""
    assert example("memory").main(updates=40) > 0.98
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5
    assert float(said[0].split()[2].rstrip("%")) < 85


class Counter:
    """Gymnasium's API: two steps, then over in the even episodes and cut off, at 10 times the state, in the odd."""

    action_space = types.SimpleNamespace(n=2)

    def __init__(self):
        self.episode = -1

    def reset(self, seed=None):
        self.episode, self.steps = self.episode + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        ended, odd = self.steps == 2, self.episode % 2 == 1
        obs = np.full(1, 10 * self.steps if odd else self.steps, np.float32)
        return obs, float(self.episode), ended and not odd, ended and odd, {"episode": {"r": 7.0}} if ended else {}


def test_a_rollout_of_gymnasium_keeps_what_matters():
    environments = [Counter(), Counter()]
    obs = np.stack([env.reset()[0] for env in environments])
    act = lambda obs, key: (np.zeros(2, np.int32), np.full(2, -0.5, np.float32))  # noqa: E731
    after, rollout, returns = example("gymnasium_loop").collect(environments, obs, act, jax.random.key(0), 5)
    assert rollout.next_obs[:, 0, 0].tolist() == [1, 2, 10, 20, 1]  # the last of each episode, before the reset
    assert rollout.obs[:, 1, 0].tolist() == [0, 1, 0, 10, 0]
    assert rollout.terminated[:, 0].tolist() == [False, True, False, False, False]
    assert rollout.truncated[:, 0].tolist() == [False, False, False, True, False]
    assert rollout.reward[:, 1].tolist() == [0, 0, 1, 1, 2]
    assert (returns, after.tolist()) == ([7.0] * 4, [[1], [1]])


def test_language_model():
    module = example("language_model")
    assert [module.reward("abc", said) for said in ("cba", "abc", "cbd")] == [1.0, 1 / 3, 2 / 3]
    history = module.main(updates=40)
    assert np.mean(history[:3]) < 0.3
    assert np.mean(history[-5:]) > 0.9


def test_token_ppo():
    module = example("token_ppo")
    assert [module.reward([3, 5], said) for said in ([3, 5, 0], [3, 5, 4, 4, 0], [5, 5, 0], [0])] == [1, 0, 2 / 3, 0]
    history = module.main(updates=50)
    assert history[0] < 0
    assert np.mean(history[-5:]) > 0.8


def test_answers_of_the_token_ppo_are_masked_behind_their_end():
    """What is learnt from stands before STOP, STOP among it; the probabilities of the rest are nobody's."""
    module = example("token_ppo")
    row, mask = np.array([3, 5, 4, 0, 0, 0, 0, 0]), np.array([0, 1, 1, 0, 0, 0, 0], bool)
    assert module.said(row, mask) == ([3, 5], [4, 0])


@pytest.mark.slow
def test_preferences(capsys):
    """Each of the three models comes to know which of an unseen pair is in order, and its reference does not."""
    module = example("preferences")
    found = module.main()
    assert [*dict.fromkeys(library for library, _ in found)] == ["nnx", "equinox", "no library"]
    for (_, name), (accuracy, margin, kl) in found.items():
        if name == "reference":
            assert (accuracy, margin) == (0.5, 0.0)
            assert abs(kl) < 1e-6
        else:
            assert accuracy > 0.9
            assert margin > 1
            assert 0.3 < kl < 4
    assert len({tuple(x) for (_, name), x in found.items() if name != "reference"}) == 6  # no two runs are the same
    assert capsys.readouterr().out.count("of held-out pairs in order") == 9


def test_preferences_are_learnt_from_the_reference_on(monkeypatch):
    """With losses that ask for nothing, what is learnt is the reference itself, and not where that began."""
    module = example("preferences")
    nothing = lambda **_: lambda outputs, batch: (0 * outputs.policy.logits.sum(), {})  # noqa: E731
    for name in ("dpo", "kto"):
        monkeypatch.setattr(module.po, name, nothing)
    model, params = module.in_no_library(0)
    records = [module.record(line, np.random.default_rng(line)) for line in range(4)]
    policies = module.train(model, params, records, updates=2)
    for name in ("dpo", "kto"):
        assert all(map(np.array_equal, jax.tree.leaves(policies[name]), jax.tree.leaves(policies["reference"])))
    assert not np.array_equal(policies["reference"]["head"], params["head"])


def test_of_a_text_with_preferences_the_answer_and_its_end_are_learnt():
    """By a loop over the strings; and a pair is in the order that its prompt asks for, and the other one is not."""
    module = example("preferences")
    rng = np.random.default_rng(0)
    records = [module.record(line, rng) for line in range(50)]
    batch = module.rows(records)
    assert {len(record.prompt) for record in records} == {3, 4, 5, 6, 7, 8}
    for n, record in enumerate(records):
        assert list(record.chosen) == sorted(record.chosen, reverse="down" in record.prompt)
        assert list(record.rejected) == sorted(record.rejected, reverse="up" in record.prompt)
        for side, answer in enumerate((record.chosen, record.rejected)):
            learnt = np.flatnonzero(batch.mask[side, n])
            assert learnt.tolist() == list(range(len(record.prompt) - 1, len(record.prompt) + len(answer)))
            assert [1 + module.SIGNS.index(sign) for sign in answer] + [0] == batch.action[side, n, learnt].tolist()


@pytest.mark.slow
def test_sweep(capsys):
    reward = example("sweep").main(TimeLimit(limit=8), rates=(1e-3, 2e-3), seeds=2, updates=4, num_envs=8, num_steps=8)
    assert reward.tolist() == [[8, 8], [8, 8]]  # a reward in each of eight steps
    said = capsys.readouterr().out
    assert "4 agents took" in said
    assert "learning rate 1e-03: return 8, 8" in said


@pytest.mark.slow
def test_outcomes():
    """The room's law is known: the start goes around more often than over, and time makes the short way better."""
    module = example("outcomes")
    found = module.main(num_envs=256, updates=80)
    (arrived, broken), (arrived_held, broken_held) = found["TRPO"], found["TRPO, outcome bounded"]
    assert float(arrived[-1]) > 0.98
    assert float(arrived_held[-1]) > 0.98
    assert float(broken[-1]) > 0.9
    assert float(broken_held[-1]) < 0.6
    assert module.at_success((jnp.array([0.1, 0.95, 0.99]), jnp.array([0.2, 0.5, 0.7])), 0.9) == 0.5
    assert np.isnan(module.at_success((jnp.array([0.1]), jnp.array([0.2])), 0.9))


def test_an_example_is_read_from_top_to_bottom():
    for path in FOLDER.glob("*.py"):
        text = path.read_text()
        assert f"python examples/{path.name}" in text
        assert len(text.splitlines()) < (160 if path.stem == "preferences" else 130)  # it has three models
        assert "main" in runpy.run_path(str(path), run_name="imported")
