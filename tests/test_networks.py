"""Networks: shapes, initial values, what reads what, and the transformer against a plain NumPy one."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax import algorithms, driver
from polopt_jax.distributions import TanhGaussian
from polopt_jax.envs import Box, Discrete, MultiDiscrete, chain
from polopt_jax.language import transformer
from polopt_jax.networks import mlp_actor_critic, shared_actor_critic, tabular_actor_critic, tabulated
from polopt_jax.normalization import raw_observations
from polopt_jax.tasks import control_task

BUILDERS = [mlp_actor_critic, shared_actor_critic]
SPACES = [Discrete(4), Box(3), MultiDiscrete((4, 2, 3))]
LEADING = [(), (2, 3, 5)]


def jitted(network):
    """One compilation of each function in place of one for each operation in it."""
    return network._replace(init=jax.jit(network.init), apply=jax.jit(network.apply))


def small_transformer(**sizes):
    sizes = dict(vocab_size=7, num_outputs=5, max_length=6, width=16, depth=2, heads=2) | sizes
    return jitted(transformer(**sizes))


def perturbed(params, scale=0.3, seed=1):
    """Parameters in general position: no zero bias, no near-uniform head."""
    noise = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + (scale * noise.normal(size=leaf.shape)).astype(leaf.dtype), params)


@pytest.fixture(scope="module")
def token_case():
    network = small_transformer()
    tokens = jax.random.randint(jax.random.key(2), (3, 6), 0, 7)
    return network, perturbed(network.init(jax.random.key(0))), tokens


def assert_all_zero(tree):
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(tree))


def any_nonzero(tree):
    return any((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(tree))


# --- multilayer perceptrons ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("leading", LEADING)
def test_any_leading_shape(strict, build, space, leading):
    network = jitted(build((2, 3), space, hidden=(8,)))
    params = network.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (*leading, 2, 3))
    outputs = network.apply(params, obs)
    assert outputs.policy.batch_shape == leading
    assert outputs.value.shape == leading
    action = outputs.policy.sample(seed=jax.random.key(2))
    assert action.shape == leading + (() if isinstance(space, Discrete) else (3,))
    flat = network.apply(params, obs.reshape(-1, 2, 3))
    np.testing.assert_allclose(outputs.value.reshape(-1), flat.value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", BUILDERS)
def test_every_product_of_a_gradient_contracts_over_one_axis(build):
    """Also on a batch [B, T]: contracting over two axes doubles the time of a PPO update on a CPU."""
    network = build((3,), Box(2), hidden=(8, 8))
    params = network.init(jax.random.key(0))

    def total(params):
        outputs = network.apply(params, jnp.ones((4, 5, 3)))
        return outputs.policy.mean.sum() + outputs.value.sum()

    products = re.findall(r"dimension_numbers=\(\(\[(.*?)\], \[", str(jax.make_jaxpr(jax.grad(total))(params)))
    assert len(products) > 8
    assert all("," not in axes for axes in products)


def test_scalar_observations():
    network = mlp_actor_critic((), Discrete(2), hidden=(4,))
    assert network.apply(network.init(jax.random.key(0)), jnp.ones(5)).value.shape == (5,)


def test_initial_kernels_are_orthogonal_with_the_stated_scales():
    params = mlp_actor_critic((6,), Box(3), hidden=(6, 6), initial_log_std=-0.5).init(jax.random.key(0))
    scales = dict(actor_0=2**0.5, actor_1=2**0.5, critic_0=2**0.5, critic_1=2**0.5, policy=0.01, value=1.0)
    for name, scale in scales.items():
        kernel = np.asarray(params[name]["kernel"], np.float64)
        np.testing.assert_allclose(kernel.T @ kernel, scale**2 * np.eye(kernel.shape[1]), atol=2e-6 * scale**2)
        assert_all_zero(params[name]["bias"])
    np.testing.assert_array_equal(params["log_std"], np.full(3, -0.5, np.float32))
    for build in (mlp_actor_critic, shared_actor_critic):
        np.testing.assert_array_equal(build((6,), Box(2)).init(jax.random.key(0))["log_std"], [-1.0, -1.0])
    assert set(params) == {*scales, "log_std"}


def test_log_std_is_one_parameter_for_all_states_and_the_gaussian_is_an_argument():
    network = mlp_actor_critic((2,), Box(3), hidden=(4,), gaussian=TanhGaussian)
    policy = network.apply(perturbed(network.init(jax.random.key(0))), jnp.arange(8.0).reshape(4, 2)).policy
    assert isinstance(policy, TanhGaussian)
    assert policy.log_std.shape == policy.mean.shape == (4, 3)
    assert (policy.log_std == policy.log_std[0]).all()
    assert not (policy.mean == policy.mean[0]).all()


@pytest.mark.parametrize("space", SPACES)
def test_separate_trunks_share_nothing_and_a_shared_one_is_shared(space):
    obs = jax.random.normal(jax.random.key(1), (4, 3))

    def gradients(network):
        params = perturbed(jitted(network).init(jax.random.key(0)))
        likeliest = network.apply(params, obs).policy.mode()
        actions = jnp.ones((4, 3)) if isinstance(space, Box) else likeliest
        policy = jax.jit(jax.grad(lambda p: network.apply(p, obs).policy.log_prob(actions).sum()))(params)
        return policy, jax.jit(jax.grad(lambda p: network.apply(p, obs).value.sum()))(params)

    policy, value = gradients(mlp_actor_critic((3,), space, hidden=(8,)))
    critic = {"critic_0", "value"}
    assert_all_zero([policy[name] for name in critic])
    assert_all_zero([value[name] for name in set(value) - critic])
    assert all(any_nonzero(policy[name]) for name in set(policy) - critic)
    assert all(any_nonzero(value[name]) for name in critic)
    policy, value = gradients(shared_actor_critic((3,), space, hidden=(8,)))
    assert any_nonzero(policy["trunk_0"])
    assert any_nonzero(value["trunk_0"])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="action_space"):
        mlp_actor_critic((3,), 4)
    network = shared_actor_critic((2, 3), Discrete(2), hidden=(4,))
    params = network.init(jax.random.key(0))
    for shape in [(3,), (5, 3, 2), (6,)]:
        with pytest.raises(ValueError, match="obs must have shape"):
            network.apply(params, jnp.zeros(shape))


# --- the transformer ----------------------------------------------------------------------------------------------


def numpy_transformer(params, tokens, heads):
    """The same forward pass for one sequence `[T]`, with a loop over queries that sees no token after its own."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    blocks = [p[name] for name in sorted(p) if name.startswith("block")]

    def norm(x, q):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * q["scale"] + q["bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = p["token"]["embedding"][tokens] + p["position"]["embedding"][: len(tokens)]
    for b in blocks:
        h = norm(x, b["attention_norm"])
        q, k, v = (
            np.einsum("tw,whd->htd", h, b[n]["kernel"]) + b[n]["bias"][:, None] for n in ("query", "key", "value")
        )
        for t in range(len(tokens)):
            for i in range(heads):
                weights = np.exp(q[i, t] @ k[i, : t + 1].T / np.sqrt(q.shape[-1]))
                x[t] += weights / weights.sum() @ v[i, : t + 1] @ b["out"]["kernel"][i]
        x = x + b["out"]["bias"]
        h = gelu(norm(x, b["mlp_norm"]) @ b["up"]["kernel"] + b["up"]["bias"])
        x = x + h @ b["down"]["kernel"] + b["down"]["bias"]
    x = norm(x, p["norm"])
    logits, value = (x @ p[n]["kernel"] + p[n]["bias"] for n in ("policy", "value"))
    return logits, value[:, 0]


def test_equals_a_plain_numpy_transformer(token_case):
    network, params, tokens = token_case
    outputs = network.apply(params, tokens)
    for row in range(tokens.shape[0]):
        logits, value = numpy_transformer(params, np.asarray(tokens[row]), heads=2)
        np.testing.assert_allclose(outputs.policy.logits[row], logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(outputs.value[row], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_tokens_of_any_leading_shape(strict, leading):
    network = small_transformer()
    params = perturbed(network.init(jax.random.key(0)))
    tokens = jax.random.randint(jax.random.key(1), (*leading, 4), 0, 7)
    outputs = network.apply(params, tokens)
    assert outputs.policy.logits.shape == (*leading, 4, 5)
    assert outputs.value.shape == (*leading, 4)
    flat = network.apply(params, tokens.reshape(-1, 4))
    np.testing.assert_allclose(outputs.policy.logits.reshape(-1, 4, 5), flat.policy.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", range(6))
def test_a_token_changes_nothing_before_it_and_everything_after(token_case, t):
    network, params, tokens = token_case
    before = network.apply(params, tokens)
    after = network.apply(params, tokens.at[:, t].set((tokens[:, t] + 1) % 7))
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a[:, :t], b[:, :t])
        assert (a[:, t:] != b[:, t:]).reshape(a.shape[0], 6 - t, -1).any(-1).all()


def test_decoding_equals_the_whole_sequence(strict, token_case):
    network, params, tokens = token_case
    whole = network.apply(params, tokens)
    cache, decode = network.init_cache(tokens.shape[:1]), jax.jit(network.decode)
    shapes = jax.tree.map(jnp.shape, cache)
    for t in range(tokens.shape[1]):
        cache, outputs = decode(params, cache, tokens[:, t : t + 1], t)
        np.testing.assert_allclose(
            jax.nn.log_softmax(outputs.policy.logits[:, 0]), jax.nn.log_softmax(whole.policy.logits[:, t]), atol=1e-5
        )
        np.testing.assert_allclose(outputs.value[:, 0], whole.value[:, t], atol=1e-5)
        assert jax.tree.map(jnp.shape, cache) == shapes


@pytest.mark.parametrize("pieces", [(6,), (2, 3, 1), (1, 5)])
def test_decoding_several_tokens_at_once_equals_the_whole_sequence(strict, token_case, pieces):
    network, params, tokens = token_case
    whole = network.apply(params, tokens)
    cache, start = network.init_cache(tokens.shape[:1]), 0
    for size in pieces:
        cache, outputs = jax.jit(network.decode)(params, cache, tokens[:, start : start + size], start)
        for found, expected in zip(jax.tree.leaves(outputs), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(found, expected[:, start : start + size], atol=2e-5)
        start += size


def test_decoding_ignores_what_the_cache_holds_from_its_position_on(token_case):
    network, params, tokens = token_case
    empty = network.init_cache((3,))
    stale = jax.tree.map(lambda leaf: leaf + 100.0, empty)
    for a, b in zip(
        *(jax.tree.leaves(network.decode(params, c, tokens[:, :1], 0)[1]) for c in (empty, stale)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_the_value_head_moves_nothing_but_itself(token_case):
    network, params, tokens = token_case
    value = jax.jit(jax.grad(lambda p: (network.apply(p, tokens).value ** 2).sum()))(params)
    assert any_nonzero(value["value"])
    assert_all_zero({name: leaf for name, leaf in value.items() if name != "value"})
    policy = jax.jit(jax.grad(lambda p: (network.apply(p, tokens).policy.logits ** 2).sum()))(params)
    assert_all_zero(policy["value"])
    assert all(any_nonzero(policy[name]) for name in policy if name != "value")


def test_the_first_policy_is_nearly_uniform(token_case):
    network, _, tokens = token_case
    logits = network.apply(network.init(jax.random.key(0)), tokens).policy.logits
    np.testing.assert_allclose(jax.nn.log_softmax(logits), -np.log(5), atol=0.1)


def test_tokens_and_positions_out_of_range_give_nan(token_case):
    network, params, tokens = token_case
    outputs = network.apply(params, tokens.at[0, 3].set(7))
    assert np.isnan(outputs.value[0, 3:]).all()
    assert np.isfinite(outputs.value[1:]).all()
    assert np.isnan(network.decode(params, network.init_cache((3,)), tokens[:, :1], 6)[1].value).all()
    assert np.isfinite(network.decode(params, network.init_cache((3,)), tokens[:, :3], 3)[1].value).all()
    assert np.isnan(network.decode(params, network.init_cache((3,)), tokens[:, :3], 4)[1].value).all()


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        (dict(num_outputs=8), "num_outputs"),
        (dict(heads=3), "width"),
        (dict(depth=0), "depth"),
        (dict(max_length=0), "max_length"),
        (dict(mlp_ratio=0), "mlp_ratio"),
    ],
)
def test_bad_sizes_are_named(sizes, name):
    with pytest.raises(ValueError, match=name):
        small_transformer(**sizes)


def test_bad_tokens_are_named(token_case):
    network, params, _ = token_case
    with pytest.raises(ValueError, match="max_length"):
        network.apply(params, jnp.zeros((2, 7), jnp.int32))
    with pytest.raises(ValueError, match="obs must be integer"):
        network.apply(params, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="tokens must have the cache's row shape"):
        network.decode(params, network.init_cache((2,)), jnp.zeros(2, jnp.int32), 0)
    for size in (0, 7):
        with pytest.raises(ValueError, match="max_length = 6 tokens"):
            network.decode(params, network.init_cache((2,)), jnp.zeros((2, size), jnp.int32), 0)
    with pytest.raises(ValueError, match="tokens must be integer"):
        network.decode(params, network.init_cache((2,)), jnp.zeros((2, 1)), 0)


# --- derivatives the solvers need ---------------------------------------------------------------------------------


def derivative_cases():
    token_network = small_transformer(max_length=4, width=8, depth=1)
    tokens = jax.random.randint(jax.random.key(2), (2, 4), 0, 7)
    obs = jax.random.normal(jax.random.key(2), (4, 3))
    discrete = jitted(mlp_actor_critic((3,), Discrete(4), hidden=(8,)))
    box = jitted(shared_actor_critic((3,), Box(2), hidden=(8,)))
    return {"transformer": (token_network, tokens), "discrete": (discrete, obs), "box": (box, obs)}


@pytest.mark.parametrize("name", ["transformer", pytest.param("discrete", marks=pytest.mark.slow), "box"])
def test_linearize_and_transpose_agree_with_jvp_and_vjp(name):
    network, obs = derivative_cases()[name]
    params = perturbed(network.init(jax.random.key(0)))
    tangent = perturbed(jax.tree.map(jnp.zeros_like, params), scale=1.0, seed=5)
    outputs, pushforward = jax.linearize(lambda p: network.apply(p, obs), params)
    pushed = pushforward(tangent)
    directly = jax.jvp(lambda p: network.apply(p, obs), (params,), (tangent,))[1]
    cotangent = perturbed(jax.tree.map(jnp.zeros_like, outputs), scale=1.0, seed=6)
    (pulled,) = jax.linear_transpose(pushforward, params)(cotangent)

    def dot(a, b):
        return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    for a, b in zip(jax.tree.leaves(pushed), jax.tree.leaves(directly), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dot(pushed, cotangent), dot(tangent, pulled), rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    [pytest.param("transformer", marks=pytest.mark.slow), pytest.param("discrete", marks=pytest.mark.slow), "box"],
)
def test_forward_over_reverse_equals_a_difference_of_gradients(x64, name):
    network, obs = derivative_cases()[name]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), perturbed(network.init(jax.random.key(0))))
    tangent = perturbed(jax.tree.map(jnp.zeros_like, params), scale=1.0, seed=5)
    obs = obs if name == "transformer" else obs.astype(jnp.float64)

    def scalar(p):
        policy = network.apply(p, obs).policy
        return (policy.entropy() + policy.log_prob(policy.mode()) ** 2).sum()

    gradient = jax.jit(jax.grad(scalar))
    exact = jax.jit(lambda p, v: jax.jvp(gradient, (p,), (v,))[1])(params, tangent)
    step = 1e-6
    up, down = (gradient(jax.tree.map(lambda p, v: p + s * v, params, tangent)) for s in (step, -step))
    for e, u, d in zip(*map(jax.tree.leaves, (exact, up, down)), strict=True):
        assert e.dtype == jnp.float64
        np.testing.assert_allclose(e, (u - d) / (2 * step), rtol=1e-5, atol=1e-7)


# --- a network of few observations -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few():
    network = mlp_actor_critic((3,), Discrete(4), hidden=(8, 8))
    seen = jax.random.normal(jax.random.key(1), (5, 3))
    return network, seen, tabulated(network, seen)


def test_a_tabulated_network_says_what_the_network_says(few):
    network, seen, table = few
    params = table.init(jax.random.key(0))
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(network.init(jax.random.key(0))), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    number = jnp.array([[4, 0, 2], [1, 1, 3]])
    found = table.apply(params, number[..., None].astype(jnp.float32))
    wanted = network.apply(params, seen[number])
    np.testing.assert_allclose(found.policy.logits, wanted.policy.logits, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-5, atol=1e-6)


def test_a_tabulated_network_has_the_gradient_of_the_network(few):
    network, seen, table = few
    params = table.init(jax.random.key(0))
    number = jax.random.randint(jax.random.key(2), (64,), 0, 5)
    action = jax.random.randint(jax.random.key(3), (64,), 0, 4)

    def loss(model, obs):
        def of(params):
            outputs = model.apply(params, obs)
            return (outputs.policy.log_prob(action) * jnp.arange(64)).mean() + (outputs.value**2).mean()

        return jax.grad(of)(params)

    ours, theirs = loss(table, number[:, None].astype(jnp.float32)), loss(network, seen[number])
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


def test_a_tabulated_network_is_computed_once_for_each_observation(few):
    """The flops of a look-up do not grow with the rows that are looked up."""
    network, seen, table = few
    params = table.init(jax.random.key(0))

    def products(model, obs):
        text = jax.make_jaxpr(model.apply)(params, obs).jaxpr
        return {eqn.outvars[0].aval.shape[0] for eqn in text.eqns if eqn.primitive.name == "dot_general"}

    assert products(table, jnp.zeros((1000, 1))) == {5}
    assert products(network, seen[jnp.zeros(1000, int)]) == {1000}


def test_numbers_of_observations_are_checked(few):
    network, _, table = few
    params = table.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"of shape \[..., 1\]"):
        table.apply(params, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="G >= 1"):
        tabulated(network, jnp.zeros((0, 3)))
    numbers = jnp.array([[-1.0], [0.0], [4.0], [5.0], [0.5], [jnp.nan], [jnp.inf]])
    found = table.apply(params, numbers)
    for x in (found.value, found.policy.logits.T):
        np.testing.assert_array_equal(jnp.isfinite(x), jnp.broadcast_to((numbers[:, 0] % 4) == 0, x.shape))


class Numbered:
    """A chain whose observation is the number of its state."""

    chain = chain(num_states=4, horizon=6)
    obs_shape, action_space = (1,), chain.action_space

    def reset(self, key):
        state, obs = self.chain.reset(key)
        return state, self.number(obs)

    def step(self, state, action, key):
        after = self.chain.step(state, action, key)
        return replace(after, obs=self.number(after.obs))

    def number(self, obs):
        return obs.argmax(keepdims=True).astype(jnp.float32)


def test_a_table_in_a_control_task_learns_from_raw_numbers_and_not_from_standardised_ones():
    env = Numbered()
    table = tabular_actor_critic(4, env.action_space)

    def learnt_from(**options):
        task = control_task(env, table, num_envs=8, num_steps=6, **options)
        run = driver.prepare(algorithms.reinforce(task), driver.seed_keys(0, 1), chunk_updates=2)
        return run.advance(run.state)[1]["policy/num_valid"][0].tolist()

    assert learnt_from(observations=raw_observations()) == [48.0, 48.0]
    assert learnt_from() == [48.0, 0.0], "the statistics of the first update are those of nothing"


@pytest.mark.parametrize("make", [mlp_actor_critic, shared_actor_critic])
def test_one_number_for_several_sizes_is_named(make):
    with pytest.raises(TypeError, match=f"{make.__name__}: hidden must be a tuple of whole numbers; it is 64"):
        make((3,), Discrete(2), hidden=64)
    with pytest.raises(TypeError, match=f"{make.__name__}: obs_shape must be a tuple of whole numbers; it is 3"):
        make(3, Discrete(2))
