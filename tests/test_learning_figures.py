"""`benchmarks.learning`, and the README's table of what it found."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import learning
from benchmarks.record import RESULTS
from polopt_jax.envs import Box, EnvStep


class Aim:
    """Two steps, each rewarded by how near to 0 the action is."""

    obs_shape, action_space = (1,), Box(1)

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(1)

    def step(self, state, action, key):
        return EnvStep(
            state=state + 1,
            obs=jnp.zeros(1),
            reward=-(action[0] ** 2),
            terminated=jnp.bool_(False),
            truncated=state >= 1,
        )


@pytest.mark.slow
@pytest.mark.parametrize("log_std", [-1.0, 0.0])
def test_a_wider_first_policy_is_further_from_its_aim(monkeypatch, log_std):
    """Two decisions, each with the variance of a policy that starts near 0 and hardly moves."""
    monkeypatch.setattr(learning, "brax_env", lambda name: Aim())
    found = learning.learn("reinforce", "aim", 20 * 64 * 32, 2, log_std)
    assert found["reward_by_quarter_mean"][0] == pytest.approx(-2 * np.exp(2 * log_std), rel=0.25)
    assert (found["steps_per_seed"], found["num_envs"]) == (20 * 64 * 32, 64)
    assert found["hyperparameters"] == {"learning_rate": 5e-4}
    assert len(found["reward_last_tenth_per_seed"]) == 2
    assert found["reward_last_tenth_mean"] == pytest.approx(np.mean(found["reward_last_tenth_per_seed"]), abs=0.06)


def test_every_algorithm_is_run_with_every_width_and_saved_as_it_comes(monkeypatch):
    saved = {}
    monkeypatch.setattr(learning, "learn", lambda *asked: asked)
    monkeypatch.setattr(learning, "save", lambda name, figures: saved.update({name: dict(figures)}))
    words = "learning --env ant --steps 7 --seeds 2 --algorithms ppo npg --initial-log-std 0 -0.5"
    monkeypatch.setattr("sys.argv", words.split())
    learning.main()
    widths = {"initial_log_std 0": 0.0, "initial_log_std -0.5": -0.5}
    run = {name: {said: (name, "ant", 7, 2, log_std) for said, log_std in widths.items()} for name in ("ppo", "npg")}
    assert saved == {"learning-ant-7": {"env": "ant", "seeds": 2, **run}}


COLUMNS = ("reinforce", "actor_critic", "npg", "trpo", "ppo")


def returns(env, steps):
    """By algorithm and width, the mean of the last tenth."""
    figures = json.loads((RESULTS / "cpu-2" / f"learning-{env}-{steps}.json").read_text())["figures"]
    return figures["seeds"], {
        (name, width): found["reward_last_tenth_mean"]
        for name in COLUMNS
        for width, found in figures.get(name, {}).items()
    }


def test_returns_in_the_readme_are_those_of_the_files():
    """A line for each file: -1, the default, and in parentheses 0."""
    readme = (RESULTS.parents[1] / "README.md").read_text().splitlines()
    head = readme.index("| environment, steps | REINFORCE | Actor-Critic | NPG | TRPO | PPO |")
    rows = [line.strip("| ").split(" | ") for line in readme[head + 2 :] if line.startswith("| ")]
    told = {}
    for begins, *cells in rows:
        if not begins.startswith("`"):
            break
        env, steps = begins.split(",")[0].strip("`"), int(float(begins.split()[1].removesuffix("M")) * 1e6)
        told[env, steps] = cells
    files = {path.stem for path in (RESULTS / "cpu-2").glob("learning-*.json")}
    assert {f"learning-{env}-{steps}" for env, steps in told} == files
    for (env, steps), cells in told.items():
        seeds, found = returns(env, steps)
        said = [
            f"{found[name, 'initial_log_std -1']:,.0f} ({found[name, 'initial_log_std 0']:,.0f})"
            if (name, "initial_log_std -1") in found
            else "-"
            for name in COLUMNS
        ]
        assert cells == said, env
        assert seeds >= 3
