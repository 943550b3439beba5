"""Advantages and corrected values of one rollout: our scan, the same recursion as an associative scan, and rlax's."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp

import polopt_jax as po
from benchmarks.parts._part import Case, Part, Wanted, told
from benchmarks.parts.rows import AT_MOST, Goal, of_times
from benchmarks.record import interleaved

GAMMA, LAMBDA = 0.99, 0.95
SHAPES = ((16, 1024), (128, 1024), (1024, 64), (1024, 1024))
"""T and B."""
SMALL = 1 << 16
"""Decisions up to which one call is too short to be timed, so that several are timed together."""


def arrays(num_steps: int, num_rows: int) -> dict[str, jax.Array]:
    """Of a rollout whose episodes end now and then, time-major."""
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (num_steps, num_rows)
    return {
        "reward": jax.random.normal(keys[0], shape),
        "value": jax.random.normal(keys[1], shape),
        "next_value": jax.random.normal(keys[2], shape),
        "terminated": jax.random.uniform(keys[3], shape) < 0.01,
    }


def ours(given: dict[str, jax.Array]) -> jax.Array:
    """`po.gae`, with everything that it checks."""
    return po.gae(**given, truncated=jnp.zeros_like(given["terminated"]), gamma=GAMMA, lambda_=LAMBDA)[0]


def associative(given: dict[str, jax.Array]) -> jax.Array:
    """A_t = δ_t + γλ A_{t+1}, as a scan over pairs (slope, intercept)."""
    goes_on = 1.0 - given["terminated"]
    delta = given["reward"] + GAMMA * goes_on * given["next_value"] - given["value"]

    def joined(later: Any, earlier: Any) -> Any:
        (slope, intercept), (further_slope, further) = later, earlier
        return slope * further_slope, further + further_slope * intercept

    return jax.lax.associative_scan(joined, (GAMMA * LAMBDA * goes_on, delta), reverse=True)[1]


def by_hand(given: dict[str, jax.Array]) -> jax.Array:
    """The recursion in three lines, for complete rollouts and nothing else."""
    goes_on = 1.0 - given["terminated"]
    delta = given["reward"] + GAMMA * goes_on * given["next_value"] - given["value"]
    back = lambda a, x: (x[0] + GAMMA * LAMBDA * x[1] * a,) * 2  # noqa: E731
    return jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, goes_on), reverse=True)[1]


def rlax_gae(given: dict[str, jax.Array]) -> jax.Array:
    """rlax's, over rows. It reads the value after the last step only, so it has another answer where episodes end."""
    import rlax

    discount = GAMMA * (1.0 - given["terminated"])
    values = jnp.concatenate([given["value"], given["next_value"][-1:]])
    each = jax.vmap(rlax.truncated_generalized_advantage_estimation, in_axes=(1, 1, None, 1), out_axes=1)
    return each(given["reward"], discount, LAMBDA, values)


def measure(num_steps: int, num_rows: int, rounds: int) -> dict[str, Any]:
    """Ours over each of the others, at one shape."""
    forms: dict[str, Callable[..., jax.Array]] = {"by hand": by_hand, "an associative scan": associative}
    if find_spec("rlax"):
        forms["rlax"] = rlax_gae
    given = arrays(num_steps, num_rows)
    compiled = {name: jax.jit(form) for name, form in {"ours": ours, **forms}.items()}
    wanted = compiled["ours"](given)
    for name in ("by hand", "an associative scan"):
        if not jnp.allclose(compiled[name](given), wanted, atol=1e-3):
            raise RuntimeError(f"{name} has another answer: the times would be of different things")
    times = num_rows * num_steps
    calls = max(1, SMALL // times)
    runs = {name: (lambda f=f: [f(given) for _ in range(calls)]) for name, f in compiled.items()}
    seconds = interleaved(runs, repeats=rounds)
    goals = {"by hand": Goal(AT_MOST, 1.1)}
    rows = [
        of_times(
            f"GAE, T = {num_steps}",
            name,
            [t / calls for t in seconds["ours"]],
            [t / calls for t in seconds[name]],
            size=num_rows,
            size_of="environments",
            goal=goals.get(name),
        )
        for name in forms
    ]
    return told(rows)


def cases(wanted: Wanted) -> list[Case]:
    shapes = SHAPES[:1] if wanted.quick else SHAPES
    return [Case(f"gae-{t}x{b}", lambda t=t, b=b: measure(t, b, wanted.rounds(15))) for t, b in shapes]


PART = Part(
    "Advantages of a rollout: our scan beside the recursion by hand, as an associative scan, and rlax's.", cases
)
