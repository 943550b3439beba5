"""The command's policies with a memory: trained, gone on with, evaluated, watched and loaded."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import runs
from polopt_jax.cli import main
from polopt_jax.envs import MemoryEnv, Remembered

RECALL = """
import jax, jax.numpy as jnp
from polopt_jax.envs import Discrete, EnvStep

class Recall:
    '''A bit is shown at the first of three steps and to be said at the last.'''

    obs_shape, action_space = (1,), Discrete(2)

    def reset(self, key):
        bit = jax.random.bernoulli(key).astype(jnp.float32)
        return (bit, jnp.int32(0)), jnp.array([2 * bit - 1])

    def step(self, state, action, key):
        bit, time = state
        reward = jnp.where((time == 2) & (action == bit), 1.0, 0.0)
        return EnvStep(state=(bit, time + 1), obs=jnp.zeros(1), reward=reward, terminated=time == 2,
                       truncated=jnp.bool_(False))
"""
TRAIN = "--env recalled:Recall --memory 8 --hidden 8 --num-envs 32 --rollout-steps 8 --seed 3"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One that was interrupted, as it were, and gone on with."""
    folder = tmp_path_factory.mktemp("memory")
    (folder / "recalled.py").write_text(RECALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        out = folder / "run"
        argv = f"train ppo {TRAIN} --learning-rate 0.01 --num-minibatches 4 --steps 8000 --eval-every 4000 --out {out}"
        assert main(argv.split()) == 0
        assert main(f"train --resume --out {out} --steps 16000".split()) == 0
        yield out


def test_it_learns_what_has_to_be_remembered(run):
    assert runs.read_json(run / runs.CONFIG)["memory"] == 8
    (result,) = runs.read_json(run / "summary.json")["results"]
    assert result["eval_return"] == 1.0


def test_it_is_evaluated(run, capsys):
    assert main(["evaluate", str(run), "--episodes", "50", "--json"]) == 0
    greedy, sampled = json.loads(capsys.readouterr().out)["seeds"]
    assert (greedy["policy"], greedy["return"]) == ("greedy", 1.0)
    assert sampled["return"] > 0.9


def test_its_memory_is_seen(run):
    assert main(["play", str(run)]) == 0
    page = (run / "play.html").read_text()
    assert "16 remembered numbers" in page  # of policy and critic


def test_it_is_loaded_and_acts_by_hand(run):
    policy = po.load(run)
    assert isinstance(policy.env, MemoryEnv)
    found = po.evaluate_policy(policy.env, po.greedy(policy), jax.random.key(0), episodes=20)
    assert found.episode_return.tolist() == [1.0] * 20
    for bit in (0, 1):
        memory, begins = policy.env.initial, True
        for seen in (2.0 * bit - 1, 0.0, 0.0):
            obs = Remembered(seen=jnp.array([seen]), memory=memory, begins=jnp.bool_(begins))
            outputs, begins = policy(obs), False
            memory = outputs.memory
        assert int(outputs.policy.mode()) == bit == int(policy.act(obs))


def test_its_observations_are_read_as_they_were_in_training(run):
    policy = po.load(run)
    seen = jnp.array([1.0])
    obs = Remembered(seen=seen, memory=policy.env.initial, begins=jnp.bool_(True))
    stats = policy.normalizer
    scaled = (seen - stats.mean) / np.sqrt(stats.m2 / stats.count)
    raw = policy.network.apply(policy.params, Remembered(seen=scaled, memory=obs.memory, begins=obs.begins))
    np.testing.assert_allclose(policy(obs).policy.logits, raw.policy.logits, rtol=1e-4)


@pytest.mark.slow
def test_bodies_are_drawn(tmp_path):
    """Of Brax's environments within."""
    out = tmp_path / "run"
    argv = (
        f"train actor_critic --env inverted_pendulum --memory 4 --hidden 4 --num-envs 4 --rollout-steps 4 --out {out}"
    )
    assert main([*argv.split(), "--steps", "16"]) == 0
    assert main(["play", str(out), "--max-steps", "4", "--gif", str(tmp_path / "film.gif")]) == 0
    assert (tmp_path / "film.gif").read_bytes()[:3] == b"GIF"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("ppo --env gymnasium:CartPole-v1 --memory 8", "--memory does not apply to a simulator of Gymnasium's"),
        ("ppo --env skip_the_test --memory 8", "--memory does not apply to the token world"),
        ("ppo --env inverted_pendulum --memory 0", "--memory must be from 1 to 65,536; it is 0"),
        (
            "ppo --env inverted_pendulum --memory 8 --num-envs 12 --rollout-steps 16",
            "--num-minibatches 8 must divide --num-envs 12\n",
        ),
    ],
)
def test_what_cannot_be_is_said(argv, said, capsys):
    assert main(["train", *argv.split()]) == 2
    assert said in capsys.readouterr().err
