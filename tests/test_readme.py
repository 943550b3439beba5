"""The README's Python is run as it stands, in order, with the few names that it leaves to its reader."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from small_run import run_small

import polopt_jax as po
from polopt_jax import settings
from polopt_jax.envs import Discrete, chain
from polopt_jax.networks import mlp_actor_critic

README = Path(__file__).parents[1] / "README.md"


def episodes_of(network, old):
    """A rollout of 40 environments, two episodes of 8 steps in each, of which the first counts; and two policies."""
    obs = 0.4 * jax.random.normal(jax.random.key(5), (16, 40, 4))
    outputs = network.apply(old, obs)
    action = outputs.policy.sample(seed=jax.random.key(6))
    done = jnp.broadcast_to(jnp.arange(16)[:, None] % 8 == 7, (16, 40))
    rollout = po.Rollout(
        obs=obs,
        action=action,
        log_prob=outputs.policy.log_prob(action),
        reward=jnp.full((16, 40), 4.0).at[:, :20].set(1.0),
        terminated=done,
        truncated=jnp.zeros_like(done),
        next_obs=obs,
        mask=jnp.ones_like(done),
    )
    new = jax.tree.map(lambda x: x + 0.03 * jax.random.normal(jax.random.key(7), x.shape), old)
    return {"rollout": rollout, "old": old, "new": new}


def chain_setting(env, **options):
    """What `small_run` trains, whatever the config says."""
    made = chain(num_states=4, horizon=6)
    return settings.Control(made, mlp_actor_critic(made.obs_shape, made.action_space, hidden=(8,)))


def learns(model, weights):
    """One step of PPO on it, by descent: every kind of model is a function of its parameters."""
    obs = jax.random.normal(jax.random.key(0), (3, 2, 4))
    policy = model(weights, obs).policy
    assert policy.batch_shape == (3, 2)
    action = policy.sample(seed=jax.random.key(1))
    batch = po.Batch(
        obs=obs,
        action=action,
        mask=jnp.ones((3, 2), bool),
        log_prob=policy.log_prob(action),
        advantage=jnp.arange(6.0).reshape(3, 2),
    )
    step = po.make_step((po.objective(model, po.ppo()), optax.sgd(0.1)))
    new, _, metrics = jax.jit(step.update)(weights, step.init(weights), batch, None)
    assert metrics["grad_norm"] > 0
    assert float(po.objective(model, po.ppo())(new, batch)[0]) < float(metrics["loss"])


@pytest.mark.timeout(900)
def test_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "control", chain_setting)
    assert run_small("--out", "runs/inverted_pendulum-ppo-0") == 0
    network = mlp_actor_critic((3,), Discrete(4), hidden=(8,))
    params = network.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (8, 2, 3))
    outputs = network.apply(params, obs)
    action = outputs.policy.sample(seed=jax.random.key(2))
    advantage = jax.random.normal(jax.random.key(3), (8, 2))
    names = {}
    later = {
        "model": network.apply,
        "params": params,
        "key": jax.random.key(4),
        "obs": jnp.zeros(4),
        "batch": po.Batch(
            obs=obs,
            action=action,
            mask=jnp.ones((8, 2), bool),
            log_prob=outputs.policy.log_prob(action),
            advantage=advantage,
            target=advantage,
        ),
    }
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 16
    for i, block in enumerate(blocks):
        code = (
            block.replace("updates=100", "updates=2")
            .replace("num_envs=256", "num_envs=32")
            .replace("range(100)", "range(2)")
            .replace("episodes=100", "episodes=2")
        )
        if i == 0:
            code = code.replace("= step.update(", "= jax.jit(step.update)(")
        if i == 14:
            names |= episodes_of(names["network"], names["params"])
        exec(compile(code, f"README block {i}", "exec"), names)
        if i == 1:
            step, own = names["step"], names["params"]
            new, _, metrics = jax.jit(step.update)(own, step.init(own), names["batch"], None)
            assert metrics["policy/line_search_accepted"] == 1
            assert metrics["critic/loss"] > 0
            # "== po.trpo(model, radius=0.01)": the same updates, to the last bit.
            surrogate, batch = names["surrogate"], names["batch"]
            grads = jax.grad(lambda p: surrogate(p, batch)[0])(own)
            spelled, whole = (
                jax.jit(lambda g, o=o: o.update(g, o.init(own), own, batch=batch, objective=surrogate)[0])(grads)
                for o in (names["trpo"], po.trpo(names["model"], radius=0.01))
            )
            for ours, theirs in zip(jax.tree.leaves(spelled), jax.tree.leaves(whole), strict=True):
                assert ours.tobytes() == theirs.tobytes()
            assert not jnp.array_equal(new["actor"], own["actor"])
            names |= later | {
                "loss": po.objective(network.apply, names["term"]),
                "surrogate": po.objective(network.apply, po.surrogate()),
            }
        if i == 3:
            for name in ("truncated", "hinge"):
                assert callable(names[name])
        if i == 4:
            assert names["action"].shape == ()
            assert names["rollout"].reward.shape == (100, 8)
        if i == 5:
            assert names["metrics"]["kl_old_new"].shape == (4, 2)
        if i == 6:
            assert names["worth"].episode_return.shape == (2,)
            assert names["act"](jnp.zeros(4)).value.shape == ()
        if i == 9:
            own = {"plain_model": {"w": jnp.ones((4, 2)), "b": jnp.zeros(2)}}
            own |= {"nnx_model": names["weights"], "eqx_model": names["arrays"]}
            for name, weights in own.items():
                learns(names[name], weights)
        if i == 10:
            surrogate, batch = names["surrogate"], names["batch"]
            step = po.make_step((surrogate, names["optimizer"]))
            new, _, metrics = jax.jit(step.update)(params, step.init(params), batch, None)
            assert metrics["line_search_accepted"] == 1
            moved = names["hellinger"](network.apply(params, batch.obs), network.apply(new, batch.obs), batch)
            assert 0.001 < float(moved) <= 0.0025
        if i == 11:
            made = jax.eval_shape(lambda key, made=names["algorithm"]: made.init(key), names["key"])
            assert made.collect_state[0].loop.obs.memory["trunk"].shape == (32, 64)
        if i == 12:
            collected = jax.eval_shape(lambda key, made=names["algorithm"]: made.init(key), names["key"])
            assert collected.update.shape == ()
        if i == 13:
            state, metrics = names["run"](names["state"])
            assert metrics["kl_old_new"].shape == (2,)
        if i == 14:
            report = names["measure"](names["old"], names["new"])
            assert (int(names["dropped"]), int(names["batch"].mask.any(-1).sum())) == (0, 40)
            assert round(float(report.success_rate_old), 5) == 0.5
            assert 0 < report.old_new.side_effect.plug_in < report.old_new.rows_kl
            assert callable(names["careful"].update)
    assert names["metrics"]["skipped"] == 0
    assert names["loop"].obs.shape == (32, 4)
