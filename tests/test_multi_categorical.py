"""Several choices at once, against the one choice among all combinations, which says the same."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import algorithms, tasks
from polopt_jax.envs import EnvStep, MultiDiscrete
from polopt_jax.networks import mlp_actor_critic

NUMS = (3, 2, 4)
ALL = np.array(list(itertools.product(*(range(num) for num in NUMS))))
"""Every combination, `[24, 3]`; its place is its id in the one choice."""
LEGAL = np.array([True, False, True, True, True, True, True, True, False])


def as_one(policy):
    """The law over combinations."""
    logits = [part.logits[..., ALL[:, k]] for k, part in enumerate(policy.choices)]
    return po.Categorical(logits=sum(logits))


def place(action):
    return np.ravel_multi_index(tuple(np.moveaxis(np.asarray(action), -1, 0)), NUMS)


@pytest.fixture(params=[False, True], ids=["all legal", "some illegal"])
def pair(request):
    logits = jax.random.normal(jax.random.key(0), (2, 5, sum(NUMS)))
    policies = [po.MultiCategorical.of_logits(x, NUMS) for x in logits]
    legal = jnp.broadcast_to(LEGAL, logits[0].shape)
    return [policy.only(legal) for policy in policies] if request.param else policies


def test_it_is_the_law_over_combinations(pair, strict):
    policy, other = pair
    one = as_one(policy)
    for action in ALL:
        ids = jnp.broadcast_to(jnp.asarray(action), (5, 3))
        np.testing.assert_allclose(policy.log_prob(ids), one.log_prob(jnp.asarray(place(ids))), rtol=1e-5)
    np.testing.assert_allclose(policy.entropy(), one.entropy(), rtol=1e-5)
    np.testing.assert_allclose(policy.kl_divergence(other), one.kl_divergence(as_one(other)), rtol=1e-5)
    assert (policy.kl_divergence(policy) == 0).all()
    np.testing.assert_array_equal(place(policy.mode()), one.mode())
    assert policy.mode().dtype == jnp.int32
    assert policy.batch_shape == (5,)
    np.testing.assert_array_equal(policy.squash(policy.mode()), policy.mode())


def test_samples_are_of_that_law():
    policy = po.MultiCategorical.of_logits(jax.random.normal(jax.random.key(1), (sum(NUMS),)), NUMS).only(LEGAL)
    drawn = jax.vmap(lambda key: policy.sample(seed=key))(jax.random.split(jax.random.key(2), 20_000))
    assert (drawn.shape, drawn.dtype) == ((20_000, 3), jnp.int32)
    chance = np.exp([float(policy.log_prob(jnp.asarray(action))) for action in ALL])
    share = np.bincount(place(drawn), minlength=len(ALL)) / len(drawn)
    assert (np.abs(share - chance) <= 4 * np.sqrt(chance * (1 - chance) / len(drawn))).all()


def test_equal_choices_are_drawn_apart():
    policy = po.MultiCategorical.of_logits(jnp.zeros((400, 4)), (2, 2))
    drawn = policy.sample(seed=jax.random.key(0))
    assert 0.4 < float((drawn[:, 0] == drawn[:, 1]).mean()) < 0.6


def test_what_is_masked_counts_for_nothing(pair):
    policy = pair[0]
    broken = po.MultiCategorical.of_logits(
        jnp.concatenate([part.logits for part in policy.choices], -1).at[2].set(jnp.nan), NUMS
    )
    mask = jnp.arange(5) != 2
    action = policy.mode()
    wanted = jnp.where(mask, policy.log_prob(action), 0)
    np.testing.assert_allclose(broken.masked_log_prob(action.at[2].set(99), mask), wanted, rtol=1e-6)
    put_aside = broken.where(mask)
    np.testing.assert_allclose(jnp.where(mask, put_aside.log_prob(action), 0), wanted, rtol=1e-6)
    np.testing.assert_allclose(put_aside.entropy()[2], np.log(NUMS).sum(), rtol=1e-6)
    assert np.isnan(policy.log_prob(action.at[0, 1].set(2))[0]), "no such id"


def model_of(law):
    def model(params, obs):
        policy = po.MultiCategorical.of_logits(obs @ params, NUMS)
        return po.Outputs(policy=law(policy))

    return model


@pytest.fixture
def batches():
    """One batch, its actions as three ids and as one."""
    keys = jax.random.split(jax.random.key(3), 4)
    obs = jax.random.normal(keys[0], (4, 3, 2))
    params = jax.random.normal(keys[1], (2, sum(NUMS)))
    action = jnp.stack([jax.random.randint(keys[2], (4, 3), 0, num) for num in NUMS], -1)
    common = dict(
        obs=obs,
        mask=jnp.ones((4, 3), bool).at[1, 2].set(False),
        log_prob=jnp.full((4, 3), -3.0),
        advantage=jax.random.normal(keys[3], (4, 3)),
    )
    return params, po.Batch(action=action, **common), po.Batch(action=jnp.asarray(place(action)), **common)


@pytest.mark.parametrize("term", [po.ppo(), po.reinforce(), po.entropy_bonus(), po.negative_log_likelihood()])
def test_objectives_have_the_same_loss_and_gradient(term, batches):
    params, several, one = batches
    found, wanted = (
        jax.value_and_grad(lambda params, model=model, batch=batch: po.objective(model, term)(params, batch)[0])(params)
        for model, batch in ((model_of(lambda policy: policy), several), (model_of(as_one), one))
    )
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_fisher_vector_products_are_the_same(batches):
    params, several, one = batches
    vector = jax.random.normal(jax.random.key(4), params.shape)
    found = po.fisher_operator(model_of(lambda policy: policy), po.action_kl, params, several)(vector)
    wanted = po.fisher_operator(model_of(as_one), po.action_kl, params, one)(vector)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda policy: policy.log_prob(jnp.zeros((5, 2), int)), r"one id for each of the policy's choices, \(5, 3\)"),
        (
            lambda policy: po.MultiCategorical.of_logits(jnp.zeros((5, 8)), NUMS),
            r"Σ \(3, 2, 4\) = 9; they have \(5, 8\)",
        ),
        (
            lambda policy: policy.kl_divergence(po.MultiCategorical.of_logits(jnp.zeros((5, 5)), (3, 2))),
            "other must have 3 choices; it has 2",
        ),
        (
            lambda policy: dataclasses.replace(
                policy, choices=(*policy.choices, po.Categorical(logits=jnp.zeros(3)))
            ).where(jnp.ones(5, bool)),
            r"choices must have one batch shape; they have \[\(\), \(5,\)\]",
        ),
        (lambda policy: policy.only(jnp.ones((5, 8), bool)), r"legal must have shape \(5, 9\); it has \(5, 8\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(po.MultiCategorical.of_logits(jnp.zeros((5, 9)), NUMS))
    with pytest.raises(TypeError, match="integer"):
        po.MultiCategorical.of_logits(jnp.zeros((5, 9)), NUMS).log_prob(jnp.zeros((5, 3)))


@pytest.mark.parametrize("nums", [(), [2, 3], 3])
def test_a_space_of_no_choices_is_refused(nums):
    with pytest.raises(ValueError, match="MultiDiscrete: nums must be a tuple of whole numbers, at least one"):
        MultiDiscrete(nums)


@dataclasses.dataclass(frozen=True)
class Lock:
    """One step; the reward is the share of the numbers that are right."""

    obs_shape: tuple = (1,)
    action_space: MultiDiscrete = MultiDiscrete(NUMS)

    def reset(self, key):
        return jnp.zeros(()), jnp.ones(1)

    def step(self, state, action, key):
        right = action == jnp.array([2, 0, 3])
        return EnvStep(
            state=state,
            obs=jnp.ones(1),
            reward=right.mean(),
            terminated=jnp.bool_(True),
            truncated=jnp.bool_(False),
            outcome={"right": right.sum()},
        )


@pytest.mark.parametrize("recipe", [algorithms.ppo, pytest.param(algorithms.trpo, marks=pytest.mark.slow)])
def test_a_recipe_learns_every_choice(recipe):
    network = mlp_actor_critic((1,), MultiDiscrete(NUMS), hidden=(8,))
    params = network.init(jax.random.key(0))
    assert params["policy"]["kernel"].shape == (8, 9)
    task = tasks.control_task(Lock(), network, num_envs=32, num_steps=4)
    algorithm = recipe(task)
    state = algorithm.init(jax.random.key(1))
    train = jax.jit(lambda state: po.train(algorithm.collect, algorithm.step, state, updates=60))
    policy = network.apply(train(state)[0].params, jnp.ones((1, 1))).policy
    assert policy.mode().tolist() == [[2, 0, 3]]
    before = network.apply(state.params, jnp.ones((1, 1))).policy
    right = jnp.array([[2, 0, 3]])
    np.testing.assert_allclose(before.log_prob(right), -np.log(24), atol=0.05)
    assert float(policy.log_prob(right)[0]) > float(before.log_prob(right)[0]) + 0.5
