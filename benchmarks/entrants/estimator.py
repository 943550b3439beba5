"""GAE and V-trace of one rollout: this library's, the same recursions by hand and as associative scans, and rlax's."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import polopt_jax as po
from benchmarks.entrants import GAMMA, LAMBDA
from benchmarks.entrants.built import Built, several

OURS, HAND, ASSOCIATIVE, RLAX = "ours", "by hand", "an associative scan", "rlax"

Arrays = Mapping[str, jax.Array]
Form = Callable[[Arrays], jax.Array]


def arrays(num_steps: int, num_rows: int) -> dict[str, jax.Array]:
    """Of a rollout whose episodes end now and then, time-major; the policy has moved on since."""
    keys = jax.random.split(jax.random.key(0), 5)
    shape = (num_steps, num_rows)
    return {
        "reward": jax.random.normal(keys[0], shape),
        "value": jax.random.normal(keys[1], shape),
        "next_value": jax.random.normal(keys[2], shape),
        "terminated": jax.random.uniform(keys[3], shape) < 0.01,
        "log_ratio": 0.2 * jax.random.normal(keys[4], shape),
    }


def episodes(given: Arrays) -> dict[str, jax.Array]:
    """What our estimators ask of a rollout that is complete and never cut."""
    shared = {name: given[name] for name in ("reward", "value", "next_value", "terminated")}
    return {**shared, "truncated": jnp.zeros_like(given["terminated"])}


def gae(given: Arrays) -> jax.Array:
    """`po.gae`, with everything that it checks."""
    return po.gae(**episodes(given), gamma=GAMMA, lambda_=LAMBDA)[0]


def v_trace(given: Arrays) -> jax.Array:
    """`po.v_trace`, likewise."""
    policies = {"log_prob": jnp.zeros_like(given["log_ratio"]), "new_log_prob": given["log_ratio"]}
    return po.v_trace(**episodes(given), **policies, gamma=GAMMA, lambda_=LAMBDA)[0]


# The same without checks, for complete rollouts and nothing else


def surprise(given: Arrays) -> tuple[jax.Array, jax.Array]:
    """δ_t before it is weighed, and what is carried over a step."""
    goes_on = 1.0 - given["terminated"]
    return given["reward"] + GAMMA * goes_on * given["next_value"] - given["value"], GAMMA * goes_on


def backwards(intercept: jax.Array, slope: jax.Array) -> jax.Array:
    """x_t = intercept_t + slope_t x_{t+1} in one loop."""
    step = lambda x, given: (given[0] + given[1] * x,) * 2  # noqa: E731
    return jax.lax.scan(step, jnp.zeros_like(intercept[0]), (intercept, slope), reverse=True)[1]


def in_pairs(intercept: jax.Array, slope: jax.Array) -> jax.Array:
    """The same as a scan over pairs."""

    def joined(later: Any, earlier: Any) -> Any:
        (slope, intercept), (further_slope, further) = later, earlier
        return slope * further_slope, further + further_slope * intercept

    return jax.lax.associative_scan(joined, (slope, intercept), reverse=True)[1]


def gae_by(recursion: Callable[..., jax.Array]) -> Form:
    """A_t = δ_t + γλ A_{t+1}."""

    def form(given: Arrays) -> jax.Array:
        delta, carried = surprise(given)
        return recursion(delta, LAMBDA * carried)

    return form


def v_trace_by(recursion: Callable[..., jax.Array]) -> Form:
    """x_t = ρ_t δ_t + γ c_t x_{t+1} is v_t - V(s_t), and the advantage is ρ_t (δ_t + γλ x_{t+1})."""

    def form(given: Arrays) -> jax.Array:
        delta, carried = surprise(given)
        weight = jnp.minimum(1.0, jnp.exp(given["log_ratio"]))
        correction = recursion(weight * delta, LAMBDA * carried * weight)
        following = jnp.concatenate([correction[1:], jnp.zeros_like(correction[:1])])
        return weight * (delta + LAMBDA * carried * following)

    return form


# rlax's, over rows; where an episode ends within a rollout they read another value, and have another answer


def rlax_gae(given: Arrays) -> jax.Array:
    import rlax

    values = jnp.concatenate([given["value"], given["next_value"][-1:]])
    each = jax.vmap(rlax.truncated_generalized_advantage_estimation, in_axes=(1, 1, None, 1), out_axes=1)
    return each(given["reward"], GAMMA * (1.0 - given["terminated"]), LAMBDA, values)


def rlax_v_trace(given: Arrays) -> jax.Array:
    import rlax

    def of_row(*row: jax.Array) -> jax.Array:
        return rlax.vtrace_td_error_and_advantage(*row, lambda_=LAMBDA).pg_advantage

    names = ("value", "next_value", "reward")
    discount, ratio = GAMMA * (1.0 - given["terminated"]), jnp.exp(given["log_ratio"])
    return jax.vmap(of_row, in_axes=1, out_axes=1)(*(given[name] for name in names), discount, ratio)


FORMS: dict[str, dict[str, Form]] = {
    "GAE": {OURS: gae, HAND: gae_by(backwards), ASSOCIATIVE: gae_by(in_pairs), RLAX: rlax_gae},
    "V-trace": {OURS: v_trace, HAND: v_trace_by(backwards), ASSOCIATIVE: v_trace_by(in_pairs), RLAX: rlax_v_trace},
}


def build(*, estimator: str, form: str, num_steps: int, num_rows: int, calls: int) -> Built:
    given = arrays(num_steps, num_rows)
    compiled = jax.jit(FORMS[estimator][form]).lower(given).compile()
    return Built(lambda: several(compiled, given, calls=calls), calls * num_steps * num_rows, calls, "")
