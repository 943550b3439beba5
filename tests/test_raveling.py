"""Parameters end to end: there and back bit for bit, and a step on the vector is the step on the tree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import polopt_jax as po
from polopt_jax import algorithms, driver, envs, networks, tasks
from polopt_jax.raveling import Raveled, all_unraveled, ravel, raveled_like, unraveled

TREE = {
    "kernel": jnp.arange(6.0).reshape(2, 3),
    "half": jnp.array([1.5, -2.0], jnp.bfloat16),
    "nested": [jnp.array(7.0), jnp.zeros((0, 4)), {"bias": jnp.array([8.0, jnp.inf])}],
    "count": jnp.array([3], jnp.int32),
}


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x, float), np.asarray(y, float))
        assert x.shape == y.shape


def test_there_and_back_bit_for_bit_in_one_vector_of_each_dtype():
    raveled = ravel(TREE)
    assert {name: x.shape for name, x in raveled.vectors.items()} == {"float32": (9,), "bfloat16": (2,), "int32": (1,)}
    assert raveled.vectors["float32"].tolist() == [*range(6), 7.0, 8.0, np.inf]
    assert_same(raveled.tree(), TREE)
    assert_same(unraveled(raveled), TREE)
    assert_same(unraveled(TREE), TREE)
    assert_same(raveled_like((raveled, 1.0), all_unraveled((raveled, 2.0)))[0], raveled)
    assert_same(ravel({}).tree(), {})
    assert_same(ravel(2.0).tree(), jnp.array(2.0))


def test_it_is_a_pytree_that_jit_vmap_and_grad_go_through():
    raveled = ravel({"a": jnp.ones((2, 2)), "b": jnp.array([3.0])})
    assert jax.tree.structure(raveled) == jax.tree.structure(ravel({"a": jnp.zeros((2, 2)), "b": jnp.zeros(1)}))
    grads = jax.jit(jax.grad(lambda r: (r.tree()["a"] ** 2).sum() + 5 * r.tree()["b"][0]))(raveled)
    assert isinstance(grads, Raveled)
    assert grads.vectors["float32"].tolist() == [2.0, 2.0, 2.0, 2.0, 5.0]
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), raveled)
    assert jax.vmap(lambda r: r.tree()["b"][0])(many).tolist() == [3.0, 6.0]


def a_step(optimizer, wrap):
    network = networks.mlp_actor_critic((3,), envs.Discrete(num=4), hidden=(8,))
    term = po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()))
    return network, wrap(po.epochs(po.make_step((po.objective(network.apply, term), optimizer)), 2, 2))


@functools.cache
def a_batch(rows=4, steps=3):
    keys = jax.random.split(jax.random.key(0), 5)
    leading = (rows, steps)
    return po.Batch(
        obs=jax.random.normal(keys[0], (*leading, 3)),
        action=jax.random.randint(keys[1], leading, 0, 4),
        mask=jax.random.bernoulli(keys[2], 0.8, leading),
        advantage=jax.random.normal(keys[3], leading),
        log_prob=jnp.full(leading, -np.log(4.0)),
        target=jax.random.normal(keys[4], leading),
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(optax.sgd(0.1), id="sgd", marks=pytest.mark.slow),
        pytest.param(optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2, eps=1e-5)), id="clip and adam"),
        pytest.param(optax.adamw(1e-2), id="adamw"),
    ],
)
def test_a_step_on_the_vector_is_the_step_on_the_tree(optimizer):
    """Three updates: moments go on too."""
    ends, metrics = [], []
    for wrap in (lambda step: step, po.raveled):
        network, step = a_step(optimizer, wrap)
        params = jax.jit(network.init)(jax.random.key(1))
        opt_state, update = step.init(params), jax.jit(step.update)
        for i in range(3):
            params, opt_state, its = update(params, opt_state, a_batch(), jax.random.key(i))
        ends.append(params)
        metrics.append(its)
    assert jax.tree.structure(ends[0]) == jax.tree.structure(ends[1])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), *ends)
    assert metrics[0].keys() == metrics[1].keys()
    for name in metrics[0]:
        np.testing.assert_allclose(metrics[0][name], metrics[1][name], rtol=1e-4, atol=1e-5)


def test_a_step_that_would_break_is_undone_on_the_vector_too():
    network, step = a_step(optax.sgd(np.inf), po.raveled)
    params = jax.jit(network.init)(jax.random.key(1))
    opt_state = step.init(params)
    found, _, metrics = jax.jit(step.update)(params, opt_state, a_batch(), jax.random.key(0))
    assert float(metrics["skipped"]) > 0
    assert_same(found, params)


def test_what_asks_for_the_function_is_given_one_of_the_vector():
    network, step = a_step(optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)), po.raveled)
    params = jax.jit(network.init)(jax.random.key(1))
    found, _, metrics = jax.jit(step.update)(params, step.init(params), a_batch(), jax.random.key(0))
    assert float(metrics["skipped"]) == 0
    assert not np.array_equal(jax.tree.leaves(found)[0], jax.tree.leaves(params)[0])


def task():
    env = envs.ObsActionReward()
    return tasks.control_task(env, networks.mlp_actor_critic(env.obs_shape, env.action_space), num_envs=8, num_steps=4)


def has_one_vector(algorithm):
    """Whether an update lays all parameters, or those of its one phase, end to end."""
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    batch = jax.eval_shape(lambda s: algorithm.collect(s.params, s.collect_state, s.key)[1], state)
    text = str(jax.make_jaxpr(algorithm.step.update)(state.params, state.opt_state, batch, state.key))
    return f"f32[{sum(x.size for x in jax.tree.leaves(state.params))}]" in text


def test_recipes_lay_out_parameters_where_the_optimizer_is_theirs_and_nowhere_else():
    """Another optimizer may see leaves, so it is given them; so are agents side by side, whose vectors are rows."""
    own = optax.adam(1e-3)
    for recipe, theirs in ((algorithms.ppo, "optimizer"), (algorithms.trpo, "value_optimizer")):
        its = recipe(task())
        assert has_one_vector(its)
        assert not has_one_vector(its._replace(step=po.side_by_side(its.step)))
        assert not has_one_vector(recipe(task(), **{theirs: own}))


@pytest.mark.parametrize("recipe", [algorithms.ppo, pytest.param(algorithms.trpo, marks=pytest.mark.slow)])
def test_agents_side_by_side_do_as_one_alone_and_go_on_from_its_state(recipe):
    its = recipe(task())
    state = jax.jit(its.init)(jax.random.key(0))
    _, batch, _ = jax.jit(its.collect)(state.params, state.collect_state, state.key)
    given = (state.params, state.opt_state, batch, jax.random.key(1))
    alone = jax.jit(its.step.update)(*given)
    two = jax.jit(lambda given: jax.tree.map(lambda x: jnp.stack([x, x]), given))(given)
    beside = jax.jit(jax.vmap(po.side_by_side(its.step).update))(*two)
    assert jax.tree.structure(alone[1]) == jax.tree.structure(beside[1]) == jax.tree.structure(state.opt_state)
    for x, y in zip(jax.tree.leaves(alone), jax.tree.leaves(beside), strict=True):
        np.testing.assert_allclose(np.stack([x, x]), y, rtol=2e-3, atol=2e-5)
    assert not np.array_equal(alone[0]["actor_0"]["kernel"], state.params["actor_0"]["kernel"])


def test_a_step_that_is_the_same_side_by_side_is_itself():
    _, step = a_step(optax.sgd(0.1), lambda step: step)
    assert po.side_by_side(step) is step


def test_moments_of_another_dtype_are_laid_out_with_their_leaves():
    network, step = a_step(optax.adam(1e-2, mu_dtype=jnp.bfloat16), po.raveled)
    _, plain = a_step(optax.adam(1e-2, mu_dtype=jnp.bfloat16), lambda step: step)
    params = jax.jit(network.init)(jax.random.key(1))
    ends = [jax.jit(one.update)(params, one.init(params), a_batch(), jax.random.key(0)) for one in (step, plain)]
    assert ends[0][1][0].mu["policy"]["kernel"].dtype == jnp.bfloat16
    for x, y in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(np.asarray(x, float), np.asarray(y, float), rtol=1e-2, atol=1e-3)


def test_the_driver_trains_several_seeds_leaf_by_leaf_and_one_on_the_vector(monkeypatch):
    """An update that says which it was."""
    its = algorithms.ppo(task())
    say = lambda number: lambda p, o, b, k: (p, o, {"which": jnp.float32(number)})  # noqa: E731
    told = its._replace(step=its.step._replace(update=say(1), beside=say(2)))
    for seeds in (1, 2):
        run = driver.prepare(told, driver.seed_keys(0, seeds), chunk_updates=1)
        np.testing.assert_array_equal(run.advance(run.state)[1]["which"], np.full((seeds, 1), seeds))


@pytest.mark.parametrize("optimizer", [po.npg, po.trpo])
def test_what_asks_the_model_is_told_apart(optimizer):
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params["kernel"]))  # noqa: E731
    params = {"kernel": jnp.ones((2, 3))}
    batch = po.Batch(
        obs=jnp.ones((4, 1, 2)),
        action=jnp.zeros((4, 1), int),
        mask=jnp.ones((4, 1), bool),
        advantage=jnp.ones((4, 1)),
        log_prob=jnp.zeros((4, 1)),
    )
    step = po.raveled(po.make_step((po.objective(model, po.surrogate()), optimizer(model))))
    with pytest.raises(TypeError, match="natural_gradient asks the model.* cannot stand within raveled"):
        jax.eval_shape(lambda p: step.update(p, step.init(p), batch, None), params)
