"""Every recipe against an update written out by hand on the same numbers.

The task is canned: a rollout that was made up here and comes back whatever the key, so that only the recipe's own doing
is left - what it makes of the rollout, which terms with which signs and weights, which optimizer, what it reports.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import polopt_jax as po
from polopt_jax import advantages, algorithms
from polopt_jax.tasks import GroupTask, Task

S, A, T = 3, 4, 5
GAMMA, LAMBDA = 0.9, 0.8
CLOSE = dict(rtol=2e-4, atol=2e-6)


def model(params, obs):
    return po.Outputs(policy=po.Categorical(logits=obs @ params["policy"]), value=obs @ params["critic"])


def made_up(rows, seed=0):
    """A rollout with episode ends of both kinds and a broken step, and the parameters that are trained on it."""
    rng = np.random.default_rng(seed)
    state = rng.integers(S, size=(T, *rows))
    action = rng.integers(A, size=(T, *rows))
    params = {"policy": 0.5 * rng.normal(size=(S, A)), "critic": rng.normal(size=S)}
    logits = params["policy"][state]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    terminated, truncated, broken = rng.random((3, T, *rows)) < 0.15
    rollout = po.Rollout(
        obs=jnp.asarray(np.eye(S)[state], jnp.float32),
        action=jnp.asarray(action),
        log_prob=jnp.asarray(np.take_along_axis(log_p, action[..., None], -1)[..., 0], jnp.float32),
        reward=jnp.asarray(rng.normal(size=(T, *rows)), jnp.float32),
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(truncated & ~terminated),
        next_obs=jnp.asarray(np.eye(S)[state], jnp.float32),
        mask=jnp.asarray(~broken),
        value=jnp.asarray(params["critic"][state], jnp.float32),
        next_value=jnp.asarray(np.where(terminated, 0, rng.normal(size=(T, *rows))), jnp.float32),
        outcome={"z": jnp.asarray(rng.integers(2, size=(T, *rows)))},
    )
    return rollout, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def canned(rollout, params, rows):
    """A task that always answers with this rollout, and counts in its state the discount that it was asked with."""
    return Task(
        model=model,
        init_params=lambda key: params,
        init=lambda key: jnp.zeros(()),
        rollout=lambda params, state, key, gamma: (state + gamma, rollout, {"asked": jnp.ones(())}),
        row_shape=rows,
        num_steps=T,
    )


def update(algorithm):
    """`(old state, batch, new state's params, metrics)` of the first update."""
    state = algorithm.init(jax.random.key(0))
    collect_state, batch, collected = jax.jit(algorithm.collect)(state.params, state.collect_state, jax.random.key(1))
    params, _, metrics = jax.jit(algorithm.step.update)(state.params, state.opt_state, batch, jax.random.key(2))
    return replace(state, collect_state=collect_state), batch, params, metrics | collected


# --- by hand ---------------------------------------------------------------------------------------------------------


def numpy_gae(rollout):
    r, v, nv = (np.asarray(x, np.float64) for x in (rollout.reward, rollout.value, rollout.next_value))
    ended = np.asarray(rollout.terminated | rollout.truncated)
    advantage, following = np.zeros_like(r), np.zeros_like(r[0])
    for t in reversed(range(T)):
        delta = r[t] + GAMMA * np.where(rollout.terminated[t], 0, nv[t]) - v[t]
        following = advantage[t] = delta + GAMMA * LAMBDA * np.where(ended[t], 0, following)
    return advantage, advantage + v


def numpy_returns(rollout):
    """Nothing is bootstrapped at the window's edge or at a time limit."""
    total, following = np.zeros((T, *rollout.reward.shape[1:])), 0.0
    for t in reversed(range(T)):
        following = np.asarray(rollout.reward[t], np.float64) + GAMMA * np.where(
            np.asarray(rollout.terminated | rollout.truncated)[t], 0, following
        )
        total[t] = following
    return total


def standardised(x, mask):
    x = np.asarray(x)
    return np.where(mask, (x - x[mask].mean()) / (x[mask].std() + 1e-8), 0)


def pieces(params, rollout):
    """log π(a), entropy, ratio and value of every decision, time-major, spelled out."""
    logits = rollout.obs @ params["policy"]
    log_p = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(log_p, rollout.action[..., None], -1)[..., 0]
    return (
        log_prob,
        -(jnp.exp(log_p) * log_p).sum(-1),
        jnp.exp(log_prob - rollout.log_prob),
        rollout.obs @ params["critic"],
    )


def mean(x, rollout):
    return jnp.where(rollout.mask, x, 0).sum() / rollout.mask.sum()


def adam_by_hand(loss, params, *, learning_rate, max_norm=np.inf, steps=1, eps=1e-5):
    """Adam (0.9, 0.999, ε) behind a clip of the global norm; also the norm of the first gradient."""
    leaves, treedef = jax.tree.flatten(params)
    m, v = [np.zeros(x.shape) for x in leaves], [np.zeros(x.shape) for x in leaves]
    norms, gradient = [], jax.jit(jax.grad(loss))
    for step in range(1, steps + 1):
        grads = [np.asarray(g, np.float64) for g in jax.tree.leaves(gradient(jax.tree.unflatten(treedef, leaves)))]
        norms.append(np.sqrt(sum((g**2).sum() for g in grads)))
        grads = [g * min(1, max_norm / norms[-1]) for g in grads]
        m = [0.9 * a + 0.1 * g for a, g in zip(m, grads, strict=True)]
        v = [0.999 * a + 0.001 * g**2 for a, g in zip(v, grads, strict=True)]
        leaves = [
            jnp.asarray(x - learning_rate * (a / (1 - 0.9**step)) / (np.sqrt(b / (1 - 0.999**step)) + eps), jnp.float32)
            for x, a, b in zip(leaves, m, v, strict=True)
        ]
    return jax.tree.unflatten(treedef, leaves), norms


def assert_params(found, expected, start):
    """Equal where they went, and they went somewhere."""
    for name in start:
        np.testing.assert_allclose(found[name], expected[name], **CLOSE, err_msg=name)
    assert max(np.abs(found[name] - start[name]).max() for name in start) > 1e-4


# --- first-order recipes ---------------------------------------------------------------------------------------------

ROWS = (6,)
BASELINES = {
    "none": (advantages.static_baseline(0.0), lambda returns, rollout: 0 * returns),
    "constant": (advantages.static_baseline(0.7), lambda returns, rollout: 0 * returns + 0.7),
    "batch mean": (
        None,
        lambda returns, rollout: np.broadcast_to(
            np.array([returns[t][np.asarray(rollout.mask[t])].mean() for t in range(T)])[:, None], returns.shape
        ),
    ),
    "learned": (advantages.learned_baseline(), lambda returns, rollout: np.asarray(rollout.value)),
}


@pytest.mark.parametrize("name", BASELINES)
def test_reinforce(name):
    rollout, params = made_up(ROWS)
    baseline, expected_baseline = BASELINES[name]
    algorithm = algorithms.reinforce(
        canned(rollout, params, ROWS),
        baseline=baseline,
        gamma=GAMMA,
        learning_rate=0.03,
        entropy_weight=0.4,
        max_grad_norm=0.05,
    )
    state, batch, found, metrics = update(algorithm)
    returns = numpy_returns(rollout)
    advantage = standardised(returns - expected_baseline(returns, rollout), np.asarray(rollout.mask))
    np.testing.assert_allclose(batch.advantage, advantage.T, atol=2e-5)
    np.testing.assert_allclose(batch.target, returns.T, rtol=1e-5)

    def loss(params):
        log_prob, entropy, _, value = pieces(params, rollout)
        total = -mean(log_prob * advantage, rollout) - 0.4 * mean(entropy, rollout)
        return total + (0.5 * mean(0.5 * (value - returns) ** 2, rollout) if name == "learned" else 0)

    expected, norms = adam_by_hand(loss, params, learning_rate=0.03, max_norm=0.05)
    assert norms[0] > 0.05, "the clip must be at work"
    assert_params(found, expected, params)
    np.testing.assert_allclose(metrics["loss"], jax.jit(loss)(params), **CLOSE)
    assert float(state.collect_state[0]) == pytest.approx(GAMMA), "the task is asked with the recipe's discount"


def actor_critic_loss(rollout, advantage, target, value_weight, entropy_weight):
    def loss(params):
        log_prob, entropy, _, value = pieces(params, rollout)
        return (
            -mean(log_prob * advantage, rollout)
            + value_weight * mean(0.5 * (value - target) ** 2, rollout)
            - entropy_weight * mean(entropy, rollout)
        )

    return loss


def gae_by_hand(rollout):
    advantage, target = numpy_gae(rollout)
    return standardised(advantage, np.asarray(rollout.mask)), target


def test_actor_critic():
    rollout, params = made_up(ROWS)
    keywords = dict(gamma=GAMMA, lambda_=LAMBDA, value_weight=0.3, entropy_weight=0.4)
    algorithm = algorithms.actor_critic(
        canned(rollout, params, ROWS), learning_rate=0.03, max_grad_norm=0.1, **keywords
    )
    state, batch, found, _ = update(algorithm)
    advantage, target = gae_by_hand(rollout)
    np.testing.assert_allclose(batch.advantage, advantage.T, atol=2e-5)
    np.testing.assert_allclose(batch.target, target.T, rtol=1e-5, atol=1e-5)
    loss = actor_critic_loss(rollout, advantage, target, 0.3, 0.4)
    expected, norms = adam_by_hand(loss, params, learning_rate=0.03, max_norm=0.1)
    assert norms[0] > 0.1
    assert_params(found, expected, params)
    assert float(state.collect_state[0]) == pytest.approx(GAMMA)


def test_ppo():
    """Three epochs of one minibatch: from the second on ratios have left 1 and the clip is at work."""
    rollout, params = made_up(ROWS)
    algorithm = algorithms.ppo(
        canned(rollout, params, ROWS),
        learning_rate=0.2,
        clip_eps=0.1,
        num_epochs=3,
        num_minibatches=1,
        gamma=GAMMA,
        lambda_=LAMBDA,
        value_weight=0.3,
        entropy_weight=0.4,
        max_grad_norm=0.2,
    )
    state, _, found, metrics = update(algorithm)
    advantage, target = gae_by_hand(rollout)

    def loss(params):
        _, entropy, ratio, value = pieces(params, rollout)
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.9, 1.1) * advantage)
        value_loss = mean(0.5 * (value - target) ** 2, rollout)
        return -mean(gain, rollout) + 0.3 * value_loss - 0.4 * mean(entropy, rollout)

    expected, norms = adam_by_hand(loss, params, learning_rate=0.2, max_norm=0.2, steps=3)
    assert max(norms) > 0.2
    assert_params(found, expected, params)
    assert 0 < float(metrics["policy/clip_fraction"]) < 1
    assert float(state.collect_state[0]) == pytest.approx(GAMMA)


def test_minibatches_are_taken_and_standardised_together():
    """The advantages have mean 0 and spread 1 over the batch, not in each minibatch; each pass takes m steps."""
    rollout, params = made_up((8,), seed=3)
    algorithm = algorithms.ppo(canned(rollout, params, (8,)), num_epochs=2, num_minibatches=4, gamma=GAMMA)
    state, batch, _, metrics = update(algorithm)
    real = np.asarray(batch.advantage)[np.asarray(batch.mask)]
    np.testing.assert_allclose([real.mean(), real.std()], [0, 1], atol=1e-5)
    new_opt = jax.jit(algorithm.step.update)(state.params, state.opt_state, batch, jax.random.key(0))[1]
    counts = [int(x) for x in jax.tree.leaves(new_opt) if x.dtype == jnp.int32]
    assert counts == [8], "2 epochs of 4 minibatches are 8 steps of Adam"
    assert metrics["skipped"] == 0


# --- second-order recipes --------------------------------------------------------------------------------------------


def dense_fisher(params, obs, mask):
    """Mean over real decisions of x xᵀ ⊗ (diag p - p pᵀ), as a matrix over the flattened [S, A] logits table."""
    total, number = np.zeros((S * A, S * A)), 0
    for x, m in zip(np.asarray(obs).reshape(-1, S), np.asarray(mask).ravel(), strict=True):
        if m:
            p = np.asarray(jax.nn.softmax(x @ params["policy"]), np.float64)
            total += np.kron(np.outer(x, x), np.diag(p) - np.outer(p, p))
            number += 1
    return total / number


def surrogate_gradient(rollout, params, advantage):
    gradient = jax.jit(jax.grad(lambda p: -mean(pieces(p, rollout)[2] * advantage, rollout)))
    return np.asarray(gradient(params)["policy"], np.float64)


def critic_by_hand(rollout, params, target, epochs):
    def loss(critic):
        return mean(0.5 * (rollout.obs @ critic["critic"] - target) ** 2, rollout)

    start = {"critic": params["critic"]}  # the critic's Adam has optax's own ε
    return adam_by_hand(loss, start, learning_rate=0.05, steps=epochs, eps=1e-8)[0]["critic"]


SECOND_ORDER = dict(gamma=GAMMA, lambda_=LAMBDA, damping=0.02, cg_iters=60, value_learning_rate=0.05)


@pytest.mark.parametrize("fisher_every", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_npg(fisher_every):
    rollout, params = made_up(ROWS)
    algorithm = algorithms.npg(
        canned(rollout, params, ROWS),
        learning_rate=0.3,
        fisher_every=fisher_every,
        value_epochs=2,
        value_minibatches=1,
        **SECOND_ORDER,
    )
    _, _, found, _ = update(algorithm)
    advantage, target = gae_by_hand(rollout)
    gradient = surrogate_gradient(rollout, params, advantage).ravel()
    fisher = dense_fisher(params, rollout.obs[:, ::fisher_every], rollout.mask[:, ::fisher_every])
    step = -0.3 * np.linalg.solve(fisher + 0.02 * np.eye(S * A), gradient).reshape(S, A)
    expected = {"policy": params["policy"] + step, "critic": critic_by_hand(rollout, params, target, 2)}
    for name in params:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-3, atol=2e-5, err_msg=name)
    whole = dense_fisher(params, rollout.obs, rollout.mask)
    other = -0.3 * np.linalg.solve(whole + 0.02 * np.eye(S * A), gradient).reshape(S, A)
    assert (np.abs(other - step).max() > 1e-2) == (fisher_every > 1), "or the subsample would not show"


@pytest.mark.parametrize("fisher_every", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_trpo(fisher_every):
    rollout, params = made_up(ROWS)
    algorithm = algorithms.trpo(
        canned(rollout, params, ROWS),
        radius=0.05,
        fisher_every=fisher_every,
        value_epochs=3,
        value_minibatches=1,
        **SECOND_ORDER,
    )
    _, _, found, metrics = update(algorithm)
    advantage, target = gae_by_hand(rollout)
    gradient = surrogate_gradient(rollout, params, advantage).ravel()
    fisher = dense_fisher(params, rollout.obs[:, ::fisher_every], rollout.mask[:, ::fisher_every])
    direction = np.linalg.solve(fisher + 0.02 * np.eye(S * A), gradient)
    full = -np.sqrt(2 * 0.05 / (direction @ fisher @ direction)) * direction.reshape(S, A)

    def kl_and_loss(policy):
        old, new = (np.asarray(jax.nn.log_softmax(rollout.obs @ x), np.float64) for x in (params["policy"], policy))
        real = np.asarray(rollout.mask)
        ratio = pieces({**params, "policy": policy}, rollout)[2]
        return (np.exp(old) * (old - new)).sum(-1)[real].mean(), float(-mean(ratio * advantage, rollout))

    start = kl_and_loss(params["policy"])[1]
    for trial in range(10):
        kl, loss = kl_and_loss(jnp.asarray(params["policy"] + 0.8**trial * full, jnp.float32))
        if kl <= 0.05 and loss < start:
            break
    np.testing.assert_allclose(metrics["policy/step_size"], 0.8**trial, rtol=1e-6)
    np.testing.assert_allclose(found["policy"], params["policy"] + 0.8**trial * full, rtol=5e-3, atol=1e-4)
    np.testing.assert_allclose(found["critic"], critic_by_hand(rollout, params, target, 3), rtol=1e-4, atol=1e-5)


# --- language --------------------------------------------------------------------------------------------------------

GROUP_ROWS = (3, 4)


def group_task(rollout, params, reference, rows):
    task = canned(rollout, params, rows)._replace(outcome=lambda rollout: {"z": rollout.outcome["z"][-1]})
    return GroupTask(task=task, reference=reference, prompts=None, attempt=None)


@pytest.mark.parametrize("bad", [None, (1, 2)])
def test_grpo(bad):
    """Groups are the last row axis; the reward is the sum over the answer; the penalty is to the *reference*."""
    rollout, params = made_up(GROUP_ROWS, seed=5)
    if bad is not None:
        reward = np.array(rollout.reward)
        reward[(-1, *bad)] = np.nan
        rollout = replace(rollout, reward=jnp.asarray(reward))
    reference = jax.tree.map(lambda x: x - 0.3 * np.sin(7 * np.asarray(x)), params)
    algorithm = algorithms.grpo(
        group_task(rollout, params, reference, GROUP_ROWS),
        learning_rate=0.1,
        clip_eps=0.15,
        beta=0.6,
        num_epochs=2,
        num_minibatches=1,
        max_grad_norm=0.05,
    )
    _, batch, found, metrics = update(algorithm)
    reward = np.asarray(rollout.reward, np.float64).sum(0)
    advantage = np.full(GROUP_ROWS, np.nan)
    for n in range(3):
        scored = np.isfinite(reward[n])
        advantage[n, scored] = (reward[n, scored] - reward[n, scored].mean()) / (reward[n, scored].std(ddof=1) + 1e-6)
    mask = np.asarray(rollout.mask) & np.isfinite(advantage)
    np.testing.assert_allclose(
        np.asarray(batch.advantage)[..., 0], advantage, rtol=1e-5, atol=1e-6, err_msg="the group is the last row axis"
    )
    np.testing.assert_array_equal(batch.mask, np.moveaxis(mask, 0, -1))
    np.testing.assert_array_equal(batch.outcome["z"], rollout.outcome["z"][-1])
    ref_log_prob = jax.jit(lambda params: pieces(params, rollout)[0])(reference)
    np.testing.assert_allclose(batch.ref_log_prob, np.moveaxis(np.asarray(ref_log_prob), 0, -1), rtol=1e-5)

    def loss(params):
        log_prob, _, ratio, _ = pieces(params, rollout)
        safe = jnp.nan_to_num(advantage)
        gain = jnp.minimum(ratio * safe, jnp.clip(ratio, 0.85, 1.15) * safe)
        to_ref = ref_log_prob - log_prob
        per_token = jnp.where(mask, gain - 0.6 * (jnp.exp(to_ref) - to_ref - 1), 0)
        rows = mask.any(0)
        return -jnp.where(rows, per_token.sum(0) / np.maximum(mask.sum(0), 1), 0).sum() / rows.sum()

    start = {"policy": params["policy"], "critic": params["critic"]}
    expected, norms = adam_by_hand(loss, start, learning_rate=0.1, max_norm=0.05, steps=2)
    assert norms[0] > 0.05
    assert_params(found, expected, start)
    assert metrics["skipped"] == 0


# --- what is reported ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    ["ppo", "npg", *(pytest.param(x, marks=pytest.mark.slow) for x in ("reinforce", "actor_critic", "trpo", "grpo"))],
)
def test_the_reported_kl_and_entropy_are_those_of_the_update(recipe):
    """KL(before ‖ after), not the other direction, and the entropy of the policy *after*, computed apart."""
    rows = GROUP_ROWS if recipe == "grpo" else ROWS
    rollout, params = made_up(rows, seed=7)
    sizes = {"npg": {"learning_rate": 2.0}, "trpo": {"radius": 0.5}}.get(recipe, {"learning_rate": 1.0})
    if recipe in ("npg", "trpo"):
        sizes["value_minibatches"] = 1
    if recipe in ("ppo", "grpo"):
        sizes["num_minibatches"] = 1
    task = group_task(rollout, params, params, rows) if recipe == "grpo" else canned(rollout, params, rows)
    state, batch, found, metrics = update(getattr(algorithms, recipe)(task, **sizes))
    real = np.asarray(batch.mask)
    old, new = (
        np.asarray(jax.nn.log_softmax(batch.obs @ p["policy"]), np.float64)[real] for p in (state.params, found)
    )
    forward = (np.exp(old) * (old - new)).sum(-1).mean()
    backward = (np.exp(new) * (new - old)).sum(-1).mean()
    before, after = (-(np.exp(x) * x).sum(-1).mean() for x in (old, new))
    assert abs(forward - backward) > 1e-3
    assert abs(before - after) > 1e-3
    np.testing.assert_allclose(metrics["kl_old_new"], forward, rtol=1e-4)
    np.testing.assert_allclose(metrics["entropy"], after, rtol=1e-5)
    assert metrics["asked"] == 1, "what the task reports is passed on"


# --- what is passed --------------------------------------------------------------------------------------------------

FEW_PARTS = {
    **{name: {} for name in ("reinforce", "actor_critic")},
    **{name: dict(value_minibatches=2) for name in ("npg", "trpo")},
    "ppo": dict(num_minibatches=2),
    "grpo": dict(num_minibatches=3),
}
"""Minibatches that divide the rows below; every recipe has its line."""


def learner(recipe, **options):
    """A recipe on a canned rollout of 6 rows, or 3 groups of 2."""
    rows = (3, 2) if recipe == "grpo" else (6,)
    rollout, params = made_up(rows)
    reference = jax.tree.map(lambda x: 0.9 * x, params)
    task = group_task(rollout, params, reference, rows) if recipe == "grpo" else canned(rollout, params, rows)
    return getattr(algorithms, recipe)(task, **options)


def distance(old, new, name=None):
    pairs = (old, new) if name is None else (old[name], new[name])
    moved = jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), *pairs)
    return np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(moved)))


@pytest.mark.parametrize(
    "recipe", [x if x in ("ppo", "npg") else pytest.param(x, marks=pytest.mark.slow) for x in FEW_PARTS]
)
def test_an_optimizer_and_an_estimate_that_are_passed_are_used(recipe):
    """Plain descent at rate 2 moves by twice the gradient, whatever learning rate and clip say."""
    asked = []

    def estimate(rollout):
        asked.append(rollout.reward.shape)
        ones = jnp.ones_like(rollout.reward)
        return po.to_batch(rollout, advantage=3 * ones, target=5 * ones)

    phased = recipe in ("npg", "trpo")
    one_step = dict.fromkeys(FEW_PARTS[recipe], 1) | ({"num_epochs": 1} if recipe in ("ppo", "grpo") else {})
    if phased:
        own = dict(value_optimizer=optax.sgd(2.0), value_learning_rate=1e3, value_epochs=1)
    else:
        own = dict(optimizer=optax.sgd(2.0), learning_rate=1e3, max_grad_norm=1e-3)
    start, batch, params, metrics = update(learner(recipe, estimate=estimate, **own, **one_step))
    assert asked
    assert (batch.advantage == 3).all()
    assert (batch.target == 5).all()
    assert (batch.ref_log_prob is not None) == (recipe == "grpo")
    grad_norm = metrics["critic/grad_norm" if phased else "grad_norm"]
    np.testing.assert_allclose(distance(start.params, params, "critic" if phased else None), 2 * grad_norm, rtol=1e-5)
    assert grad_norm > 0.01


@pytest.mark.parametrize("recipe", ["ppo", "grpo"])
def test_an_estimate_that_makes_no_batch_is_named(recipe):
    wrong = learner(recipe, estimate=lambda rollout: (rollout.reward, rollout.reward), **FEW_PARTS[recipe])
    with pytest.raises(TypeError, match="an estimate must return a Batch, as to_batch makes it; it returned a tuple"):
        update(wrong)


@pytest.mark.parametrize(
    ("recipe", "rate", "moving"),
    [
        ("ppo", "learning_rate", None),
        ("grpo", "learning_rate", None),
        pytest.param("npg", "learning_rate", "policy", marks=pytest.mark.slow),
        ("trpo", "value_learning_rate", "critic"),
    ],
)
def test_a_schedule_counts_updates(recipe, rate, moving):
    """At a rate for update 0 and none after, the first moves as at a constant rate, in all its steps, and no other."""

    def after(updates, rate_of):
        algorithm = learner(recipe, **{rate: rate_of}, **FEW_PARTS[recipe])
        state = algorithm.init(jax.random.key(0))
        _, batch, _ = jax.jit(algorithm.collect)(state.params, state.collect_state, jax.random.key(1))
        step, found, opt_state = jax.jit(algorithm.step.update), [state.params], state.opt_state
        for _ in range(updates):
            params, opt_state, _ = step(found[-1], opt_state, batch, jax.random.key(2))
            found.append(params)
        return found

    _, constant = after(1, 0.02)
    start, first, *_, last = after(3, lambda update: jnp.where(update == 0, 0.02, 0.0))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), first, constant)
    assert distance(start, first, moving) > 0.01
    assert distance(first, last, moving) == 0


def test_a_recipe_of_ones_own():
    """Terms, an estimate and an optimizer, put together by `assemble`, are what the recipe of that name does."""
    rollout, params = made_up((6,))
    task = canned(rollout, params, (6,))
    term = po.actor_critic(value_weight=0.5, entropy_weight=0.0)
    step = po.make_step((po.objective(model, term), algorithms.adam(3e-3, 0.5)))
    own = algorithms.assemble(task, step, algorithms.gae_estimate(0.99, 0.95), gamma=0.99)
    *_, ours, metrics = update(own)
    *_, theirs, expected = update(algorithms.actor_critic(task, value_weight=0.5))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), (ours, metrics), (theirs, expected))
    assert set(metrics) >= {"kl_old_new", "entropy", "asked", "loss"}


@pytest.mark.parametrize(
    ("recipe", "values", "said"),
    [
        ("ppo", {"learning_rate": -0.05}, "ppo: learning_rate must be above 0; it is -0.05"),
        ("reinforce", {"learning_rate": float("nan")}, "reinforce: learning_rate must be above 0; it is nan"),
        ("actor_critic", {"value_weight": -1}, "actor_critic: value_weight must be at least 0; it is -1"),
        ("ppo", {"entropy_weight": -1.0}, "ppo: entropy_weight must be at least 0; it is -1"),
        ("npg", {"gamma": 1.5}, "npg: gamma must be from 0 to 1; it is 1.5"),
        ("trpo", {"value_epochs": 0}, "trpo: value_epochs must be at least 1; it is 0"),
        ("grpo", {"max_grad_norm": 0.0}, "grpo: max_grad_norm must be above 0; it is 0.0"),
        ("dpo", {"num_pairs": 0}, "dpo: num_pairs must be at least 1; it is 0"),
    ],
)
def test_a_value_out_of_its_declared_range_is_refused(recipe, values, said):
    with pytest.raises(ValueError, match=said):
        getattr(algorithms, recipe)(None, **values)
