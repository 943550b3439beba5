"""The critic's other losses: Huber's, and cross-entropy to a law over a grid, each against loops and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.surrogates import cross_entropy, huber

SHAPE = (4, 5)
SUPPORT = np.array([-2.0, -1.5, 0.0, 0.5, 3.0])
pytestmark = pytest.mark.usefixtures("x64")


def example(seed, scale=2.0):
    rng = np.random.default_rng(seed)
    value, target = scale * rng.normal(size=(2, *SHAPE))
    mask = rng.random(SHAPE) < 0.7
    return value, target, mask, po.Batch(obs=None, action=None, mask=jnp.asarray(mask), target=jnp.asarray(target))


def test_huber_is_squared_near_and_linear_far():
    value, target, mask, batch = example(0)
    delta = 1.3

    def loss(value):
        return po.huber_value_loss(delta=delta)(po.Outputs(policy=None, value=value), batch)

    (found, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.asarray(value))
    total, far, expected = 0.0, 0, np.zeros(SHAPE)
    for index in np.argwhere(mask):
        index = tuple(index)
        error = value[index] - target[index]
        near = abs(error) <= delta
        total += 0.5 * error**2 if near else delta * abs(error) - 0.5 * delta**2
        expected[index] = error if near else delta * np.sign(error)
        far += not near
    assert 0 < far < mask.sum()
    np.testing.assert_allclose(found, total / mask.sum(), rtol=1e-13)
    np.testing.assert_allclose(gradient, expected / mask.sum(), atol=1e-14)
    np.testing.assert_allclose(metrics["linear_fraction"], far / mask.sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics["value_mean"], value[mask].mean(), rtol=1e-12)


def test_an_infinite_delta_is_the_squared_error():
    value, _, _, batch = example(1)
    outputs = po.Outputs(policy=None, value=jnp.asarray(value))
    for one, other in zip(
        *(
            jax.value_and_grad(lambda o, t=term: t(o, batch)[0], allow_int=True)(outputs)
            for term in (po.huber_value_loss(delta=jnp.inf), po.value_loss())
        ),
        strict=True,
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), one, other)


def test_huber_has_no_kink():
    slope = jax.vmap(jax.grad(lambda v: huber(v, jnp.zeros(()), delta=2.0)))
    edges = jnp.array([-2.0 - 1e-9, -2.0, -2.0 + 1e-9, 0.0, 2.0 - 1e-9, 2.0, 2.0 + 1e-9])
    np.testing.assert_allclose(slope(edges), [-2, -2, -2, 0, 2, 2, 2], atol=1e-8)


def test_two_hot_has_the_mean_of_its_target_on_the_two_points_beside_it():
    rng = np.random.default_rng(2)
    target = rng.uniform(-2.0, 3.0, (50, 2))
    law = np.asarray(po.two_hot(jnp.asarray(target), jnp.asarray(SUPPORT)))
    np.testing.assert_allclose(law @ SUPPORT, target, atol=1e-13)
    for p, x in zip(law.reshape(-1, 5), target.reshape(-1), strict=True):
        below = np.searchsorted(SUPPORT, x) - 1
        expected = np.zeros(5)
        expected[below + 1] = (x - SUPPORT[below]) / (SUPPORT[below + 1] - SUPPORT[below])
        expected[below] = 1 - expected[below + 1]
        np.testing.assert_allclose(p, expected, atol=1e-13)
    points = po.two_hot(jnp.asarray(SUPPORT), jnp.asarray(SUPPORT))
    np.testing.assert_array_equal(points, np.eye(5))
    outside = po.two_hot(jnp.array([-50.0, 50.0, -jnp.inf, jnp.inf]), jnp.asarray(SUPPORT))
    np.testing.assert_array_equal(outside, np.eye(5)[[0, 4, 0, 4]])


@pytest.mark.parametrize("support", [[0.0, 1.0, 1.0], [2.0, 1.0, 0.0], [0.0, np.nan, 1.0]])
def test_a_support_that_does_not_increase_is_refused_where_it_is_concrete(support):
    for of in (lambda x: po.two_hot(jnp.zeros(2), x), lambda x: po.expected_value(jnp.zeros((2, 3)), x)):
        for x in (support, jnp.asarray(support)):
            with pytest.raises(ValueError, match="support must be strictly increasing; it is"):
                of(x)
        assert jax.jit(of)(jnp.asarray(support)).shape[0] == 2


def test_categorical_value_loss_is_a_loop_over_decisions():
    _, target, mask, batch = example(3)
    logits = np.random.default_rng(30).normal(size=(*SHAPE, 5))

    def loss(logits):
        outputs = po.Outputs(policy=None, value_logits=logits)
        return po.categorical_value_loss(support=jnp.asarray(SUPPORT))(outputs, batch)

    (found, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.asarray(logits))
    total, mean, beyond, expected = 0.0, 0.0, 0, np.zeros((*SHAPE, 5))
    for index in np.argwhere(mask):
        index = tuple(index)
        q = np.exp(logits[index]) / np.exp(logits[index]).sum()
        x = min(max(target[index], -2.0), 3.0)
        p = np.array([np.interp(x, SUPPORT, np.eye(5)[k]) for k in range(5)])
        total -= (p * np.log(q)).sum()
        mean += q @ SUPPORT
        beyond += target[index] != x
        expected[index] = q - p
    assert beyond > 0
    np.testing.assert_allclose(found, total / mask.sum(), rtol=1e-13)
    np.testing.assert_allclose(gradient, expected / mask.sum(), atol=1e-14)
    np.testing.assert_allclose(metrics["value_mean"], mean / mask.sum(), rtol=1e-12)
    np.testing.assert_allclose(metrics["clamped_fraction"], beyond / mask.sum(), rtol=1e-6)


def test_descent_finds_the_mean_of_the_targets():
    """Many targets of one state: the least cross-entropy is at the mean of their laws, whose value is their mean."""
    target = jnp.asarray(np.random.default_rng(4).uniform(-2, 3, (1, 40)))
    law = po.two_hot(target, jnp.asarray(SUPPORT)).mean((0, 1))
    batch = po.Batch(obs=None, action=None, mask=jnp.ones((1, 40), bool), target=target)
    logits = jnp.broadcast_to(jnp.log(law), (1, 40, 5))
    slope = jax.grad(
        lambda x: po.categorical_value_loss(support=jnp.asarray(SUPPORT))(
            po.Outputs(policy=None, value_logits=jnp.broadcast_to(x, (1, 40, 5))), batch
        )[0]
    )(jnp.log(law))
    np.testing.assert_allclose(slope, 0, atol=1e-15)
    np.testing.assert_allclose(po.expected_value(logits, jnp.asarray(SUPPORT)), target.mean(), rtol=1e-12)


def test_another_projection_may_be_given():
    """The law of a Gaussian around the target over the cells of the grid, as HL-Gauss has it."""
    _, target, mask, batch = example(5)
    middle = (SUPPORT[1:] + SUPPORT[:-1]) / 2

    def smoothed(target, support):
        below = jax.scipy.stats.norm.cdf(jnp.asarray(middle).reshape(1, 1, -1), target[..., None], 0.7)
        ends = jnp.zeros_like(target[..., None])
        return jnp.diff(jnp.concatenate([ends, below, ends + 1], axis=-1), axis=-1)

    logits = jnp.asarray(np.random.default_rng(50).normal(size=(*SHAPE, 5)))
    term = po.categorical_value_loss(support=jnp.asarray(SUPPORT), project=smoothed)
    found, _ = term(po.Outputs(policy=None, value_logits=logits), batch)
    law = np.asarray(smoothed(jnp.asarray(target), None))
    expected = -(law * np.asarray(jax.nn.log_softmax(logits))).sum(-1)[mask].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(cross_entropy(jnp.asarray(law), logits)[mask].mean(), expected, rtol=1e-12)


def test_a_model_with_a_law_for_a_critic_learns_its_values_through_gae():
    """What the docstring shows: `value` goes into the rollout and into gae, `value_logits` into the loss."""
    support, obs = jnp.linspace(-1.0, 4.0, 11), jnp.eye(3)[:, None, :]

    def model(params, obs):
        logits = obs @ params
        value = po.expected_value(logits, support)
        return po.Outputs(policy=po.Categorical(logits=jnp.zeros((*value.shape, 2))), value=value, value_logits=logits)

    last = jnp.array([[False], [False], [True]])
    truth = jnp.array([[3.0], [2.0], [1.0]])
    loss = po.objective(model, po.categorical_value_loss(support=support))

    def update(params, _):
        value = model(params, obs).value
        following = jnp.concatenate([value[1:], value[:1]])
        _, target = po.gae(
            reward=jnp.ones((3, 1)), value=value, next_value=following, terminated=last,
            truncated=jnp.zeros((3, 1), bool), gamma=1.0, lambda_=0.5,
        )  # fmt: skip
        batch = po.Batch(obs=obs, action=None, mask=jnp.ones((3, 1), bool), target=target)
        return params - 5.0 * jax.grad(lambda p: loss(p, batch)[0])(params), None

    params, _ = jax.jit(lambda p: jax.lax.scan(update, p, None, length=400))(jnp.zeros((3, 11)))
    np.testing.assert_allclose(model(params, obs).value, truth, atol=0.02)


def test_grids_and_logits_that_do_not_fit_are_refused():
    _, _, _, batch = example(6)
    term = po.categorical_value_loss(support=jnp.asarray(SUPPORT))
    with pytest.raises(
        ValueError, match=r"outputs.value_logits must have shape \(4, 5, 5\), that of the law on support"
    ):
        term(po.Outputs(policy=None, value_logits=jnp.zeros((*SHAPE, 4))), batch)
    for support in (jnp.zeros(()), jnp.zeros(1), jnp.zeros((2, 3))):
        with pytest.raises(ValueError, match="support must have shape"):
            po.two_hot(jnp.zeros(3), support)
    with pytest.raises(ValueError, match="logits must have the 5 points of support"):
        po.expected_value(jnp.zeros((2, 1)), jnp.asarray(SUPPORT))
    with pytest.raises(ValueError, match="huber_value_loss: delta must be above 0"):
        po.huber_value_loss(delta=0.0)


@pytest.mark.peers
def test_huber_and_two_hot_are_those_of_rlax():
    rlax = pytest.importorskip("rlax")
    value, target, _, _ = example(7)
    np.testing.assert_allclose(
        huber(value, target, delta=0.7), rlax.huber_loss(jnp.asarray(value - target), 0.7), atol=1e-13
    )
    inside = jnp.asarray(np.random.default_rng(70).uniform(-2, 3, 40))
    theirs = rlax.transform_to_2hot(inside, -2.0, 3.0, 11)
    np.testing.assert_allclose(
        po.two_hot(inside, jnp.linspace(-2, 3, 11)), theirs, atol=1e-4
    )  # theirs adds 1e-5 to what it divides by
