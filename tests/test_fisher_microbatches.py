"""Products with the Fisher matrix summed over shares of the rows: the same matrix, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import polopt_jax as po
from polopt_jax import algorithms, outcomes, solvers, tasks
from polopt_jax.envs import Box, Quadratic
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.reductions import count, counted_parts

pytestmark = pytest.mark.filterwarnings("ignore")

NETWORK = mlp_actor_critic((5,), Box(2), hidden=(16,))
PARAMS = jax.jit(NETWORK.init)(jax.random.key(0))


def ragged(*leading, steps, **more):
    """Rows of every length."""
    rng = np.random.default_rng(1)
    batch = po.Batch(
        obs=rng.normal(size=(*leading, steps, 5)).astype(np.float32),
        action=np.zeros((*leading, steps, 2), np.float32),
        mask=np.arange(steps) < rng.integers(1, steps + 1, leading)[..., None],
        advantage=rng.normal(size=(*leading, steps)).astype(np.float32),
        **more,
    )
    return jax.tree.map(jnp.asarray, batch)


SHARES = [((12,), 4, 0), ((12,), 12, 0), ((4, 3), 2, 0), ((4, 3), 3, 1), ((2, 6), 3, 1)]


@pytest.mark.parametrize(
    ("divergence", "leading", "number", "axis"),
    [
        *((po.action_kl, *shares) for shares in SHARES),
        *(
            pytest.param(divergence, *shares, marks=pytest.mark.slow if shares in SHARES[1:-1] else ())
            for divergence in (po.trajectory_kl, po.reverse(po.action_kl))
            for shares in SHARES
        ),
    ],
)
def test_the_product_is_that_of_the_whole(divergence, leading, number, axis):
    batch = ragged(*leading, steps=4)
    rng = np.random.default_rng(2)
    v = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), PARAMS)

    def product(**options):
        def flat(v):
            f = po.fisher_operator(NETWORK.apply, divergence, PARAMS, batch, damping=0.1, **options)
            return ravel_pytree(f(v))[0]

        return jax.jit(flat)(v)

    whole = np.asarray(product())
    np.testing.assert_allclose(product(num_microbatches=number, axis=axis), whole, atol=2e-6 * np.abs(whole).max())


def test_shares_are_divided_by_the_counts_of_the_whole():
    shares = counted_parts(ragged(6, steps=4), 3)
    assert len(set(shares.counts.decisions.tolist())) == 1
    assert float(shares.counts.decisions[0]) == float(ragged(6, steps=4).mask.sum())
    larger = count(jnp.ones((100, 4), bool))  # as of a batch that this one is a share of
    assert counted_parts(ragged(6, steps=4, counts=larger), 3).counts.decisions.tolist() == [400.0] * 3


def test_what_couples_rows_and_what_does_not_divide_is_refused():
    batch = ragged(6, steps=4, outcome=jnp.zeros(6, int), log_prob=jnp.zeros((6, 4)))
    coupled = outcomes.outcome_kl(2, of=lambda outcome: outcome)
    with pytest.raises(ValueError, match="outcome_kl couples rows"):
        po.fisher_operator(NETWORK.apply, coupled, PARAMS, batch, num_microbatches=2)(PARAMS)
    with pytest.raises(ValueError, match="4 parts do not divide axis 0"):
        po.fisher_operator(NETWORK.apply, po.action_kl, PARAMS, batch, num_microbatches=4)


@pytest.mark.slow
def test_memory_is_that_of_a_share():
    batch = ragged(4096, steps=1)
    network = mlp_actor_critic((5,), Box(2), hidden=(64, 64))
    params = jax.jit(network.init)(jax.random.key(0))

    def planned(number):
        def solve(v):
            f = po.fisher_operator(network.apply, po.action_kl, params, batch, damping=0.1, num_microbatches=number)
            return po.conjugate_gradient(f, v, iters=10)[0]

        return jax.jit(solve).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert planned(16) < 0.2 * planned(1)


@pytest.mark.parametrize(
    "make", [solvers.npg, solvers.trpo, pytest.param(solvers.natural_gradient, marks=pytest.mark.slow)]
)
def test_optimizers_pass_it_on(make):
    """One step is the same in shares; what is refused of a product is refused of them."""
    batch = ragged(6, steps=4, log_prob=jnp.zeros((6, 4)))
    objective = po.objective(NETWORK.apply, po.reinforce())
    grads = jax.jit(jax.grad(lambda p: objective(p, batch)[0]))(PARAMS)

    def step(**options):
        optimizer = make(NETWORK.apply, damping=1.0, cg_iters=3, **options)  # further on, rounding differs
        extra = {"batch": batch, "objective": objective}
        updates = jax.jit(lambda g: optimizer.update(g, optimizer.init(PARAMS), PARAMS, **extra)[0])(grads)
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(updates)])

    whole = step()
    np.testing.assert_allclose(step(num_microbatches=3), whole, atol=1e-4 * np.abs(whole).max())
    with pytest.raises(ValueError, match="5 parts do not divide"):
        step(num_microbatches=5)


@pytest.mark.parametrize("recipe", ["npg", "trpo"])
def test_recipes_pass_it_on(recipe, monkeypatch):
    given = []
    make = getattr(solvers, recipe)
    monkeypatch.setattr(
        solvers, recipe, lambda *args, **own: given.append(own["num_microbatches"]) or make(*args, **own)
    )
    env = Quadratic()
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(4,))
    getattr(algorithms, recipe)(tasks.control_task(env, network, num_envs=4, num_steps=2), fisher_microbatches=4)
    assert given == [4]
