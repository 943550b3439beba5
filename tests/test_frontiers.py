"""Exact problems and methods, against the list of all episodes of a small world in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated_world import Enumerated, small_world

from polopt_jax import frontiers
from polopt_jax.worlds import burning_building, outcome_table, tabulate

LOGITS = np.random.default_rng(1).standard_normal((2, 3))
OTHER = LOGITS + 0.5 * np.random.default_rng(2).standard_normal((2, 3))
DAMPING = 1e-3


@pytest.fixture
def small(x64):
    problem = frontiers.exact_problem(small_world(), side_effects=("hurt",))
    return problem, Enumerated(problem)


def policy(problem, logits):
    return frontiers.log_policy(problem, jnp.asarray(logits))


def close(actual, expected, atol=1e-12):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-9, atol=atol)


def test_what_a_policy_brings_about(small):
    problem, listed = small
    close(frontiers.cell_law(problem, policy(problem, LOGITS)), listed.table(LOGITS))
    close(frontiers.mean_reward(problem, policy(problem, LOGITS)), listed.reward(LOGITS))
    lengths = np.array([len(decided) for _, decided, _, _ in listed.episodes])
    close(frontiers.decisions(problem, policy(problem, LOGITS)).sum(), listed.law(LOGITS) @ lengths)
    both = policy(problem, LOGITS), policy(problem, OTHER)
    close(frontiers.trajectory_kl(problem, *both), listed.kl(LOGITS, OTHER))
    close(frontiers.trajectory_kl(problem, *both[::-1]), listed.kl(OTHER, LOGITS))


def test_advantages_give_the_gradient(small):
    problem, listed = small
    close(jax.grad(frontiers.reward(problem))(jnp.asarray(LOGITS)), listed.gradient(LOGITS))
    advantage, weight = frontiers.advantages(problem, policy(problem, LOGITS))
    per_state = np.asarray((weight * advantage).sum(0))
    by_row = [per_state[np.asarray(problem.group) == g].sum(0) for g in range(2)]
    close(by_row, listed.gradient(LOGITS))  # the policy gradient theorem: softmax scores centre themselves
    close((weight * advantage).sum(-1), 0.0)


def partitions(listed):
    z = listed.cells // 2
    return {"marginal": listed.outcomes % z, "joint": listed.outcomes, "success": listed.outcomes // z}


def held_fisher(listed, name, logits):
    parts = partitions(listed)
    if name == "conditional":
        return listed.partition_fisher(logits, parts["joint"]) - listed.partition_fisher(logits, parts["success"])
    return listed.partition_fisher(logits, parts[name])


HELD = {"marginal": frontiers.marginal, "conditional": frontiers.conditional, "joint": frontiers.joint}


@pytest.mark.parametrize("name", HELD)
def test_outcome_fisher(small, name):
    """Against Fisher's identity over episodes, and the second difference of the divergence."""
    problem, listed = small
    factor = np.asarray(frontiers.outcome_factor(problem, HELD[name], jnp.asarray(LOGITS)))
    fisher = factor.T @ factor
    close(fisher, held_fisher(listed, name, LOGITS))
    along, step = np.random.default_rng(3).standard_normal(LOGITS.shape), 1e-3
    table = listed.table(LOGITS)
    moved = [
        float(frontiers.held_kl(HELD[name], jnp.asarray(table), jnp.asarray(listed.table(LOGITS + h * along))))
        for h in (step, -step)
    ]
    curvature = sum(moved) / step**2
    assert curvature == pytest.approx(along.reshape(-1) @ fisher @ along.reshape(-1), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "second", "expected"),
    [
        ("marginal", [[0.5, 0.0], [0.5, 0.0]], np.inf),
        ("conditional", [[0.5, 0.0], [0.5, 0.0]], np.inf),
        ("joint", [[0.5, 0.0], [0.5, 0.0]], np.inf),
        ("joint", [[0.25, 0.25], [0.25, 0.25]], 0.5 * np.log(2)),  # first never succeeds without harm
        ("marginal", [[0.25, 0.5], [0.25, 0.0]], 0.0),  # what happens either way, though with another success
    ],
)
def test_what_the_second_table_lacks_is_infinitely_far(name, second, expected):
    """It counted as certain: the divergence came out below 0, and the penalty paid for the side effect."""
    first, second = jnp.array([[0.5, 0.25], [0.0, 0.25]]), jnp.array(second)
    divergence = lambda table: frontiers.held_kl(HELD[name], table, second)  # noqa: E731
    np.testing.assert_allclose(divergence(first), expected, atol=1e-6)
    if np.isfinite(expected):
        assert np.isfinite(jax.grad(divergence)(first)).all()


def test_a_penalty_on_what_the_reference_never_does_is_refused():
    problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    never = jnp.array([[0.5, 0.0], [0.5, 0.0]])
    with pytest.raises(ValueError, match="near_outcomes: reference must have mass wherever the world can end"):
        frontiers.near_outcomes(problem, frontiers.reward(problem), never, weight=1.0)
    there = frontiers.near_outcomes(problem, frontiers.reward(problem), jnp.full((2, 2), 0.25), weight=1.0)
    assert float(there(jnp.zeros((1, 4)))) == pytest.approx(0.5)


def test_trajectory_fisher_and_its_inverse(small):
    problem, listed = small
    dense = listed.trajectory_fisher(LOGITS)
    vector = np.random.default_rng(4).standard_normal(LOGITS.shape)
    close(
        frontiers.trajectory_fisher(problem, jnp.asarray(LOGITS), jnp.asarray(vector)).reshape(-1),
        dense @ vector.reshape(-1),
    )
    for name, weight in (("marginal", 30.0), ("conditional", 2.0), ("joint", 0.0)):
        factor = frontiers.outcome_factor(problem, HELD[name], jnp.asarray(LOGITS))
        matrix = dense + DAMPING * np.eye(6) + weight * held_fisher(listed, name, LOGITS)
        solved = frontiers.precondition(
            problem, jnp.asarray(LOGITS), jnp.asarray(vector), factor, weight=weight, damping=DAMPING
        )
        close(solved.reshape(-1), np.linalg.solve(matrix, vector.reshape(-1)), atol=1e-8)


def table_kl(held, new, old):
    p = {"marginal": lambda t: t.sum(0), "joint": lambda t: t.reshape(-1)}[held]
    return (p(new) * np.log(p(new) / p(old))).sum()


def numpy_trust_region(listed, logits, *, held="joint", weight=0.0, radius=0.02):
    matrix = (
        listed.trajectory_fisher(logits) + DAMPING * np.eye(logits.size) + weight * held_fisher(listed, held, logits)
    )
    gradient = listed.gradient(logits)
    direction = np.linalg.solve(matrix, gradient.reshape(-1)).reshape(logits.shape)
    scale = np.sqrt(2 * radius / (direction * gradient).sum())
    while True:
        new = logits + scale * direction
        moved = listed.kl(new, logits) + weight * table_kl(held, listed.table(new), listed.table(logits))
        if moved <= 1.5 * radius and listed.reward(new) >= listed.reward(logits):
            return new
        scale /= 2


def numpy_bounded(listed, logits, limit, *, radius=0.02):
    """One cost, the rate of the side effect, by the formulas of the paper's theorem 2."""
    matrix = listed.trajectory_fisher(logits) + DAMPING * np.eye(logits.size)
    spent = lambda x: listed.table(x).sum(0)[1]  # noqa: E731
    g = -listed.gradient(logits).reshape(-1)
    b = listed.gradient(logits, (listed.outcomes % 2).astype(float)).reshape(-1)
    c, h_g, h_b = spent(logits) - limit, np.linalg.solve(matrix, g), np.linalg.solve(matrix, b)
    q, r, s = g @ h_g, g @ h_b, b @ h_b
    if c > 0 and c**2 > 2 * radius * s:
        direction = -np.sqrt(2 * radius / s) * h_b
    elif c - np.sqrt(2 * radius / q) * r <= 0:
        direction = -np.sqrt(2 * radius / q) * h_g
    else:
        lam = np.sqrt((q - r**2 / s) / (2 * radius - c**2 / s))
        direction = -(h_g + (lam * c - r) / s * h_b) / lam
    scale = 1.0
    while True:
        new = logits + scale * direction.reshape(logits.shape)
        near = listed.kl(new, logits) <= 1.5 * radius and spent(new) <= max(1.5 * limit, spent(logits))
        if near and (c > 0 or listed.reward(new) >= listed.reward(logits)):
            return new
        scale /= 2


def rate_at_first(listed):
    return listed.table(LOGITS).sum(0)[1]


def action_advantages(listed, logits):
    """A[h, s, a] and how often, `[H, S, A]`, from the list of episodes."""
    law, shape = listed.law(logits), (listed.horizon, *listed.prob.shape[:2])
    paid, often = np.zeros(shape), np.zeros(shape)
    for p, (_, decided, _, _), total in zip(law, listed.episodes, listed.payments, strict=True):
        for h, (state, action) in enumerate(decided):
            paid[h, state, action] += p * total  # payments come with the end, so all of them follow the decision
            often[h, state, action] += p
    q = paid / np.where(often > 0, often, 1)
    return q - (paid.sum(-1) / np.where(often.sum(-1) > 0, often.sum(-1), 1))[..., None], often


def numpy_clipped(listed, logits, memory, *, rate, iterations):
    advantage, often = action_advantages(listed, logits)
    advantage /= np.sqrt((often * advantage**2).sum() / often.sum())
    old, x, (count, first, second) = listed.policy(logits), logits.copy(), memory
    for _ in range(iterations):
        new = listed.policy(x)
        ratio = (new / old)[listed.group][None]
        active = np.where(advantage > 0, ratio < 1.2, ratio > 0.8)
        slope = (often * advantage * active * ratio).sum(0)  # of log π(a|s), by state
        gradient = np.zeros_like(x)
        np.add.at(gradient, listed.group, slope)
        gradient -= new * gradient.sum(-1, keepdims=True)
        count, first, second = count + 1, 0.9 * first + 0.1 * -gradient, 0.999 * second + 0.001 * gradient**2
        x = x - rate * (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
    return x, (count, first, second)


def natural(listed, logits, gradient):
    matrix = listed.trajectory_fisher(logits) + DAMPING * np.eye(logits.size)
    return np.linalg.solve(matrix, gradient.reshape(-1)).reshape(logits.shape)


def standardised(listed, logits):
    advantage, often = action_advantages(listed, logits)
    return listed.gradient(logits) / np.sqrt((often * advantage**2).sum() / often.sum())


def by_hand(listed, name, logits, updates):
    memory, price = (0, 0.0, 0.0), np.zeros(2)
    reference, z = listed.table(LOGITS), listed.outcomes % 2
    for _ in range(updates):
        if name == "clipped":
            logits, memory = numpy_clipped(listed, logits, memory, rate=0.05, iterations=10)
        elif name.startswith("priced"):
            logits = logits + 2.0 * listed.gradient(logits, listed.payments - price[z])
            price = price + 3.0 * (listed.table(logits).sum(0) - reference.sum(0))
            price = np.maximum(price, 0) if name == "priced one-sided" else price
        elif name == "near outcomes":
            # the gradient of KL(P ‖ P_ref) charges log P/P_ref of each side effect
            charge = np.log(listed.table(logits).sum(0) / reference.sum(0))
            logits = logits + 2.0 * listed.gradient(logits, listed.payments - 0.7 * charge[z])
        elif name == "near policy":
            ratio = np.log(listed.law(logits) / listed.law(OTHER))
            logits = logits + 2.0 * listed.gradient(logits, listed.payments - 0.3 * ratio)
        else:
            logits = {
                "gradient": lambda x: x + 2.0 * listed.gradient(x),
                "standardised": lambda x: x + 0.5 * standardised(listed, x),
                "natural": lambda x: x + 0.5 * natural(listed, x, listed.gradient(x)),
                "trpo": lambda x: numpy_trust_region(listed, x),
                # the first held one is halved for its outcome; the second would be, were its KL the other way round
                "trpo, wide": lambda x: numpy_trust_region(listed, x, radius=2.0),
                "held marginal": lambda x: numpy_trust_region(listed, x, held="marginal", weight=50.0, radius=0.1),
                "held marginal, wide": lambda x: numpy_trust_region(
                    listed, x, held="marginal", weight=50.0, radius=1.0
                ),
                "held joint": lambda x: numpy_trust_region(listed, x, held="joint", weight=5.0),
                "bounded": lambda x: numpy_bounded(listed, x, rate_at_first(listed)),
                "bounded, back": lambda x: numpy_bounded(listed, x, 0.7 * rate_at_first(listed)),
                "bounded, wide": lambda x: numpy_bounded(listed, x, 0.98 * rate_at_first(listed), radius=0.2),
            }[name](logits)
    return logits


def methods(problem, listed):
    goal, table = frontiers.reward(problem), jnp.asarray(listed.table(LOGITS))
    ascend = lambda objective: frontiers.gradient_ascent(objective, step_size=2.0)  # noqa: E731
    rate = lambda table: table.sum(0)[1:]  # noqa: E731
    return {
        "gradient": ascend(goal),
        "standardised": frontiers.standardised_ascent(problem, step_size=0.5),
        "natural": frontiers.natural_ascent(problem, goal, step_size=0.5, damping=DAMPING),
        "trpo": frontiers.trust_region(problem, goal, damping=DAMPING),
        "trpo, wide": frontiers.trust_region(problem, goal, radius=2.0, damping=DAMPING),
        "held marginal": frontiers.trust_region(problem, goal, held=frontiers.marginal, weight=50.0, radius=0.1),
        "held marginal, wide": frontiers.trust_region(problem, goal, held=frontiers.marginal, weight=50.0, radius=1.0),
        "held joint": frontiers.trust_region(problem, goal, held=frontiers.joint, weight=5.0, damping=DAMPING),
        "bounded": frontiers.bounded(problem, goal, rate, rate(table), damping=DAMPING),
        "bounded, back": frontiers.bounded(problem, goal, rate, 0.7 * rate(table), damping=DAMPING),
        "bounded, wide": frontiers.bounded(problem, goal, rate, 0.98 * rate(table), radius=0.2, damping=DAMPING),
        "clipped": frontiers.clipped_ascent(problem, learning_rate=0.05),
        "priced": frontiers.priced(problem, ascend, goal, table, dual_step=3.0),
        "priced one-sided": frontiers.priced(
            problem, ascend, goal, table, dual_step=3.0, allowed=lambda price: jnp.maximum(price, 0)
        ),
        "near outcomes": ascend(frontiers.near_outcomes(problem, goal, table, weight=0.7)),
        "near policy": ascend(frontiers.near_policy(problem, goal, policy(problem, OTHER), beta=0.3)),
    }


METHODS = (
    "gradient",
    "standardised",
    "natural",
    "trpo",
    "trpo, wide",
    "held marginal",
    "held marginal, wide",
    "held joint",
    "bounded",
    "bounded, back",
    "bounded, wide",
    "clipped",
    "priced",
    "priced one-sided",
    "near outcomes",
    "near policy",
)


@pytest.mark.parametrize("name", METHODS)
def test_updates_are_those_of_a_second_account(small, name):
    """Four updates, so that what is remembered from one to the next is part of it."""
    problem, listed = small
    method = methods(problem, listed)[name]

    def advance(carry, _):
        return method.step(*carry), None

    start = jnp.asarray(LOGITS)
    (after, _), _ = jax.jit(lambda x: jax.lax.scan(advance, (x, method.init(x)), None, length=4))(start)
    expected = by_hand(listed, name, LOGITS, 4)
    assert np.abs(expected - LOGITS).max() > 0.01
    close(after, expected, atol=1e-6)


def test_soft_optimum(small):
    """Nothing near it has a larger J - beta KL; and it is the closed form where one decision is all there is."""
    problem, listed = small
    reference, beta = policy(problem, LOGITS), 0.3
    best = frontiers.soft_optimum(problem, reference, beta=beta)
    np.testing.assert_allclose(jnp.exp(best).sum(-1), 1.0, rtol=1e-12)

    def value(table):
        return frontiers.mean_reward(problem, table) - beta * frontiers.trajectory_kl(problem, table, reference)

    noise = jax.random.normal(jax.random.key(0), (20, *best.shape), best.dtype)
    for size in (1e-1, 1e-2):
        others = jax.vmap(lambda e: value(jax.nn.log_softmax(best + size * e)))(noise)  # noqa: B023
        assert float(others.max()) < float(value(best))
    live = [s for s in range(len(problem.group)) if not problem.world.terminal[s]]
    q = (problem.world.prob * problem.world.reward).sum(-1)
    weights = np.exp(np.asarray(reference + q / beta))
    close(jnp.exp(best)[-1][jnp.array(live)], (weights / weights.sum(-1, keepdims=True))[live])


def test_a_step_that_only_does_harm_is_not_taken(small):
    """A line search that finds nothing leaves the logits, bit by bit."""
    problem, _ = small
    peak = jnp.asarray(LOGITS)
    broken = lambda x: jnp.where(jnp.all(x == peak), jnp.sum(x), -1e9)  # noqa: E731
    rate = lambda table: table.sum(0)[1:]  # noqa: E731
    for method in (frontiers.trust_region(problem, broken), frontiers.bounded(problem, broken, rate, jnp.ones(1))):
        after, _ = jax.jit(method.step)(peak, ())
        assert (np.asarray(after) == LOGITS).all()


def test_states_that_look_alike_share_a_row(x64):
    problem = frontiers.exact_problem(small_world(), side_effects=("hurt",))
    assert problem.num_groups == 2
    assert len(set(np.asarray(problem.group)[~np.asarray(problem.world.terminal)])) == 2
    world = tabulate(burning_building(rows=1, horizon=3))
    own = frontiers.exact_problem(world, side_effects=("vase",), group=world.obs.argmax(-1))
    np.testing.assert_array_equal(np.eye(20)[own.group][:, : own.num_groups], world.obs[:, : own.num_groups])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda p: frontiers.exact_problem(p.world, side_effects=()), "side_effects"),
        (lambda p: frontiers.exact_problem(p.world, side_effects=("success",)), "side_effects"),
        (lambda p: frontiers.exact_problem(p.world, side_effects=("harm",)), "harm"),
        (lambda p: frontiers.exact_problem(p.world, side_effects=("hurt",), group=jnp.zeros(2, int)), "group"),
        (lambda p: frontiers.exact_problem(p.world, side_effects=("hurt",), group=p.group - 1), "group"),
        (lambda p: frontiers.log_policy(p, jnp.zeros((2, 2))), "logits"),
        (lambda p: frontiers.trust_region(p, frontiers.reward(p), radius=0.0), "radius"),
        (lambda p: frontiers.trust_region(p, frontiers.reward(p), weight=-1.0), "weight"),
        (lambda p: frontiers.bounded(p, frontiers.reward(p), lambda t: t[:, 1], jnp.ones(2), radius=0.0), "radius"),
        (lambda p: frontiers.gradient_ascent(frontiers.reward(p), step_size=-1.0), "step_size"),
        (lambda p: frontiers.standardised_ascent(p, step_size=0.0), "step_size"),
        (lambda p: frontiers.natural_ascent(p, frontiers.reward(p), step_size=1.0, damping=0.0), "damping"),
        (lambda p: frontiers.clipped_ascent(p, clip_eps=0.0), "clip_eps"),
        (lambda p: frontiers.clipped_ascent(p, iterations=0), "iterations"),
        (lambda p: frontiers.near_outcomes(p, frontiers.reward(p), jnp.ones((2, 2)), weight=-1.0), "weight"),
        (lambda p: frontiers.near_policy(p, frontiers.reward(p), jnp.zeros((7, 3)), beta=-1.0), "beta"),
        (lambda p: frontiers.soft_optimum(p, jnp.zeros((7, 3)), beta=0.0), "beta"),
    ],
)
def test_bad_arguments_are_named(small, call, named):
    problem, _ = small
    with pytest.raises(ValueError, match=named):
        call(problem)
