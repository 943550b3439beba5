"""`Categorical.log_prob` against closed forms, in every mode of differentiation; and what its gradient stores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.types import record

INF = np.inf
ROWS = np.array([
    [0.3, -1.2, 2.0, 0.1],
    [5.0, 5.0, 5.0, 5.0],
    [0.0, -INF, 1.0, -INF],
    [-INF, -INF, 3.0, -INF],
    [800.0, 0.0, -800.0, 799.0],
])  # fmt: skip
ACTION = np.array([2, 0, 0, 2, 3])
MASK = np.array([True, False, True, True, True])


def probabilities(rows):
    p = np.exp(rows - rows.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def scores():
    """∂ log π(a) / ∂ l = 1[b = a] - p_b, and nothing of a decision under the mask; `[rows, A]`."""
    return np.where(MASK[:, None], np.eye(4)[ACTION] - probabilities(ROWS), 0)


def as_a_term_reads_it(logits):
    return po.Categorical(logits=logits).masked_log_prob(jnp.asarray(ACTION), jnp.asarray(MASK))


def by_where(logits):
    """In two steps, which say the same."""
    policy = po.Categorical(logits=logits).where(jnp.asarray(MASK))
    return jnp.where(jnp.asarray(MASK), policy.log_prob(jnp.asarray(ACTION)), 0)


both = pytest.mark.parametrize("log_prob", [as_a_term_reads_it, by_where])


@both
@pytest.mark.usefixtures("x64")
def test_the_value_and_its_gradient_are_the_closed_forms(log_prob):
    with np.errstate(invalid="ignore"):
        shifted = ROWS - ROWS.max(-1, keepdims=True)
    exact = (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))[np.arange(5), ACTION]
    np.testing.assert_allclose(log_prob(jnp.asarray(ROWS)), np.where(MASK, exact, 0), atol=1e-13)
    weight = np.array([1.0, 2.0, -3.0, 0.5, 4.0])
    slope = jax.jit(jax.grad(lambda x: (jnp.asarray(weight) * log_prob(x)).sum()))
    for logits in (ROWS, np.where(MASK[:, None], ROWS, np.nan)):
        gradient = slope(logits)
        np.testing.assert_allclose(gradient, weight[:, None] * scores(), atol=1e-14)


@both
@pytest.mark.usefixtures("x64")
def test_forward_mode_and_the_transpose_of_its_linear_map_are_the_closed_form(log_prob):
    """What a Fisher operator does: push, and pull by `jax.linear_transpose`."""
    logits, rng = jnp.asarray(ROWS), np.random.default_rng(0)
    tangent, cotangent = rng.normal(size=ROWS.shape), rng.normal(size=len(ROWS))

    @jax.jit
    def derivatives(logits, tangent, cotangent):
        pushed = jax.jvp(log_prob, (logits,), (tangent,))[1]
        push = jax.linearize(log_prob, logits)[1]
        (pulled,) = jax.linear_transpose(push, logits)(cotangent)
        return pushed, pulled, jax.jacfwd(log_prob)(logits), jax.jacrev(log_prob)(logits)

    pushed, pulled, forward, backward = derivatives(logits, tangent, cotangent)
    np.testing.assert_allclose(pushed, (scores() * tangent).sum(-1), atol=1e-14)
    np.testing.assert_allclose(pulled, scores() * cotangent[:, None], atol=1e-14)
    np.testing.assert_allclose(forward, backward, atol=1e-14)


@both
@pytest.mark.usefixtures("x64")
def test_second_derivatives_are_minus_the_covariance_whichever_mode_comes_first(log_prob):
    p = np.where(MASK[:, None], probabilities(ROWS), 0)
    exact = p[:, :, None] * p[:, None, :] - np.eye(4) * p[:, :, None]
    total = lambda x: log_prob(x).sum()  # noqa: E731
    for outer, inner in ((jax.jacfwd, jax.grad), (jax.jacrev, jax.grad), (jax.jacrev, jax.jacfwd)):
        hessian = np.asarray(jax.jit(outer(inner(total)))(ROWS))
        np.testing.assert_allclose(np.einsum("iaib->iab", hessian), exact, atol=1e-14)
        np.testing.assert_allclose(hessian.sum(), 0, atol=1e-13)


def test_a_constant_costs_no_precision():
    """Logits in steps of 2^-8 stay exact in float32 when 2^13 is added; the log-sum-exp of large logits would not."""
    rng = np.random.default_rng(1)
    logits = jnp.asarray(np.round(256 * rng.normal(size=(50, 6))) / 256, jnp.float32)
    action = jnp.asarray(rng.integers(6, size=50))
    values, slopes = (
        jax.vmap(jax.value_and_grad(lambda x, a: po.Categorical(logits=x).log_prob(a)))(x, action)
        for x in (logits, logits + 8192.0)
    )
    for plain, shifted in zip(values, slopes, strict=True):
        np.testing.assert_array_equal(plain, shifted)


def test_where_no_action_is_legal_nothing_is_nan_but_the_way_is_barred():
    logits = jnp.full((1, 3), -jnp.inf)
    value, gradient = jax.value_and_grad(lambda x: po.Categorical(logits=x).log_prob(jnp.zeros(1, int)).sum())(logits)
    assert value == -INF
    assert not np.any(gradient)


def test_a_term_asks_for_it_at_once_where_it_can_be_had():
    """And else by `where` and `log_prob`, which is all that a policy needs."""

    @record
    class Alone:
        logits: jax.Array

        @property
        def batch_shape(self):
            return self.logits.shape[:-1]

        def where(self, mask):
            return Alone(logits=jnp.where(mask[:, None], self.logits, 0))

        def log_prob(self, action):
            return po.Categorical(logits=self.logits).log_prob(action)

    logits = jnp.array([[0.3, 1.2, -0.5], [np.nan, np.nan, np.nan]])
    batch = po.Batch(obs=None, action=jnp.array([1, 99]), mask=jnp.array([True, False]), advantage=jnp.ones(2))
    for kind in (po.Categorical, Alone):
        loss = lambda x, kind=kind: po.reinforce()(po.Outputs(policy=kind(logits=x)), batch)[0]  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(logits)
        np.testing.assert_allclose(value, -np.log(probabilities(np.array([0.3, 1.2, -0.5])))[1], rtol=1e-6)
        assert np.abs(gradient[0]).max() > 0.1
        assert not np.any(gradient[1])


def test_a_mask_of_another_shape_is_refused():
    policy = po.Categorical(logits=jnp.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"masked_log_prob: mask must have shape \(2, 3\), that of the policy"):
        policy.masked_log_prob(jnp.zeros((2, 3), int), jnp.ones(3, bool))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_added_up_in_float32_and_has_a_gradient_of_its_own_kind(dtype):
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(3, 300)), dtype)
    loss = lambda x: po.Categorical(logits=x).log_prob(jnp.array([0, 7, 299])).sum()  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(logits)
    p = probabilities(np.asarray(logits, np.float64))
    assert (value.dtype, gradient.dtype) == (jnp.float32, dtype)
    np.testing.assert_allclose(value, np.log(p[np.arange(3), [0, 7, 299]]).sum(), rtol=1e-6)


# --- what is stored ---------------------------------------------------------------------------------------------------


@record
class ByHand:
    """A logit less the log-sum-exp, of which no decision is masked and nothing checked."""

    logits: jax.Array

    @property
    def batch_shape(self):
        return self.logits.shape[:-1]

    def log_prob(self, action):
        chosen = jnp.take_along_axis(self.logits, action[..., None], axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(self.logits, axis=-1)

    def where(self, mask):
        return self


def shapes(*leading):
    of = lambda dtype: jax.ShapeDtypeStruct(leading, dtype)  # noqa: E731
    reals = dict.fromkeys(("advantage", "log_prob", "ref_log_prob"), of(jnp.float32))
    return po.Batch(obs=None, action=of(jnp.int32), mask=of(bool), **reals)


def stored(term, kind, batch, *, width=None, vocabulary=2048):
    """Temporary memory of loss and gradient over the size of the logits: given logits, or a head of some width."""
    leading = batch.mask.shape
    if width is None:
        inputs = (jax.ShapeDtypeStruct((*leading, vocabulary), jnp.float32),)
        loss = lambda logits, batch: term(po.Outputs(policy=kind(logits=logits)), batch)[0]  # noqa: E731
    else:
        inputs = tuple(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((*leading, width), (width, vocabulary)))
        loss = lambda hidden, head, batch: term(po.Outputs(policy=kind(logits=hidden @ head)), batch)[0]  # noqa: E731
    compiled = jax.jit(jax.grad(loss, tuple(range(len(inputs))))).lower(*inputs, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * np.prod(leading) * vocabulary)


def plain(outputs, batch):
    """The log-probabilities themselves, without a mask."""
    return outputs.policy.log_prob(batch.action).mean(), {}


TERMS = {"grpo": (po.grpo(), (4, 256)), "dpo": (po.dpo(), (2, 2, 256)), "log_prob": (plain, (4, 256))}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("width", [None, 64])
def test_no_more_of_the_logits_is_stored_than_by_hand(name, width):
    term, leading = TERMS[name]
    ours, by_hand = (stored(term, kind, shapes(*leading), width=width) for kind in (po.Categorical, ByHand))
    assert ours < by_hand + 0.02
    assert by_hand > 1.5 or width is None


@pytest.mark.parametrize("legal", [jnp.array([0.0, -1e9, 0.0]), jnp.array([1, 0, 1])])
def test_what_is_legal_is_boolean(legal):
    """What is added to logits has its zeros where actions are legal: the other way round."""
    with pytest.raises(TypeError, match=f"only: legal must be boolean; its dtype is {legal.dtype}"):
        po.Categorical(logits=jnp.zeros(3)).only(legal)
