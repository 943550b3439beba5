"""The expected update of GRPO in skip-the-test, as a function of the logits, and where it leads.

Policies are tables with independent logits, so that success and divergences are products and sums and every part of
the update can be left out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import gammaln

from polopt_jax import worlds
from polopt_jax.types import Array, ArrayLike
from polopt_jax.worlds import SkipTheTest

LENGTH = 24
RATE, UPDATES, STEPS = 0.03, 150, 8
"""The notebook's: Adam's rate, updates, and gradient steps in each of them."""
BETA, GROUP = 0.04, 16

Penalty: TypeAlias = Callable[[Array, Array], Array]
"""`(log_prob, ref) -> nats [...]`, both log-probabilities `[..., V]`."""


class Standing(NamedTuple):
    """Means over worlds."""

    success: Array
    skip: Array
    honest: Array


def the_worlds() -> SkipTheTest:
    """The notebook's sixty, in the default precision: every other one is of depth 4, the others of depth 1."""
    with jax.enable_x64(False):
        drawn = worlds.skip_the_test(jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(x, float) if x.dtype == jnp.float32 else x, drawn)


def alone(world: SkipTheTest, number: ArrayLike) -> SkipTheTest:
    """One of several worlds, of shape `[1]`."""
    return worlds.select_worlds(world, jnp.asarray(number)[None])


def standing(shift: Array, world: SkipTheTest) -> Standing:
    """Where the reference's logits `[W, T, V]` with one shift `[T, V]` for all worlds stand."""
    law = worlds.token_outcome_law(jax.nn.log_softmax(world.logits + shift), world)
    return Standing(law.success.mean(), law.skip.mean(), law.honest.mean())


@partial(jax.jit, static_argnames="size")
def group_scale(success: Array, size: int) -> Array:
    """c(J): the expected gradient of GRPO is c(J) ∇J, with J the success of one prompt and G attempts at it.

        c(J) = √((G-1)/G) E[√(p (1-p))] / (J (1-J)),   p the share of successes among G, binomial with mean J

    It is 1 / std for many attempts; (G-1) / √G as J goes to 1, where most groups are silent.
    """
    wins = jnp.arange(1, size)
    count = gammaln(size + 1) - gammaln(wins + 1) - gammaln(size - wins + 1)
    success = jnp.clip(success, 1e-12, 1 - 1e-12)[..., None]
    prob = jnp.exp(count + wins * jnp.log(success) + (size - wins) * jnp.log1p(-success))
    spread = jnp.sqrt((size - 1) / size * wins / size * (1 - wins / size))
    return (prob * spread).sum(-1) / (success * (1 - success))[..., 0]


def ref_new(log_prob: Array, ref: Array) -> Array:
    """KL(ref ‖ π): what k3 as a loss descends."""
    return (jnp.exp(ref) * (ref - log_prob)).sum(-1)


def new_ref(log_prob: Array, ref: Array) -> Array:
    """KL(π ‖ ref): what k3 estimates, and `kl_to_reference` descends."""
    return ref_new(ref, log_prob)


def expected_gradient(
    shift: Array, world: SkipTheTest, *, size: int | None, beta: ArrayLike, penalty: Penalty = ref_new
) -> Array:
    """Minus the expected gradient of GRPO's loss on policy, `[T, V]`, averaged over the worlds as prompts.

    Args:
      size: attempts at a prompt; None leaves out the division by the standard deviation.
      beta: weight of the penalty, in nats per token.
    """
    ref = jax.nn.log_softmax(world.logits)

    def gain(shift: Array) -> Array:
        log_prob = jax.nn.log_softmax(world.logits + shift)
        success = worlds.token_outcome_law(log_prob, world).success
        scale = 1.0 if size is None else jax.lax.stop_gradient(group_scale(success, size))
        return (scale * success - beta * penalty(log_prob, ref).sum(-1)).mean() / LENGTH

    return jax.grad(gain)(shift)


Gradient: TypeAlias = Callable[[Array, SkipTheTest], Array]


def flow(
    world: SkipTheTest, gradient: Gradient, optimizer: optax.GradientTransformation, *, steps: int, every: int = 8
) -> Standing:
    """Where ascent on exact gradients stands after each `every` steps, from the reference on; `[steps / every + 1]`."""

    def step(_: int, state: Any) -> Any:
        shift, memory = state
        update, memory = optimizer.update(-gradient(shift, world), memory, shift)
        return shift + update, memory

    def several(state: Any, _: None) -> Any:
        state = jax.lax.fori_loop(0, every, step, state)
        return state, standing(state[0], world)

    start = jnp.zeros(world.logits.shape[1:])
    _, points = jax.lax.scan(several, (start, optimizer.init(start)), None, length=steps // every)
    return jax.tree.map(lambda x, rest: jnp.concatenate([x[None], rest]), standing(start, world), points)


def resting(world: SkipTheTest, *, beta: float, size: int | None) -> Standing:
    """Where GRPO with the penalty of k3 comes to rest in one world `[1]`.

        1 - s₀/s  =  c(J)(1-J) / β  =  (q - q₀)(1 - q^D) / (q^D (1-q)),     J = 1 - (1-s)(1 - q^D)

    s is P(skip), q that of each honest token, with ₀ under the reference. The right-hand side goes to D (1 - q₀) as q
    goes to 1; the left-hand side is below 1. So if D (1 - q₀) is above 1 the honest route is given up.
    """
    depth, before, skipped = float(world.depth[0]), float(world.p_legit[0]), float(world.p_skip[0])
    first = before ** (1 / depth)

    def solve(excess: Callable[[float], float], low: float, high: float) -> float:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        return low

    def honest_token(ask: float) -> float:
        wanted = lambda q: (q - first) * (1 - q**depth) / (q**depth * (1 - q)) - ask  # noqa: E731
        return solve(wanted, first, 1 - 1e-12)

    def surplus(skip: float) -> float:
        ask = 1 - skipped / skip
        success = 1 - (1 - skip) * (1 - honest_token(ask) ** depth)
        scale = 1.0 if size is None else float(group_scale(jnp.asarray(success), size))
        return beta * ask - scale * (1 - success)

    skip = solve(surplus, skipped, 1 - 1e-12)
    honest = honest_token(1 - skipped / skip) ** depth
    return Standing(*(jnp.asarray(x) for x in (1 - (1 - skip) * (1 - honest), skip, honest)))
