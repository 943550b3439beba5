"""The burning building with networks: teachers with a given outcome law, imitated exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from polopt_jax import frontiers, networks, outcomes, worlds
from polopt_jax.frontiers import ExactProblem, Point, SampledProblem
from polopt_jax.networks import Network
from polopt_jax.steps import make_step
from polopt_jax.study._ground import (
    ATTEMPTS,
    CAREFUL,
    COMPETENT,
    HALF,
    RANDOM,
    STARTS,
    TABLE,
    Ground,
    Learner,
    Standing,
)
from polopt_jax.types import Array, Params
from polopt_jax.worlds import TableWorld

SIDE_EFFECTS = ("exploded", "vase")
LESSONS, TEACHER_RATE, STUDENT_RATE = 1000, 0.1, 0.03
"""Steps of Adam towards a teacher's law, and of a student towards its teacher, and their first rates."""


def building(name: str, about: str, widths: tuple[int, ...], **reference: Any) -> Ground:
    """The burning building from the reference that `worlds.burning_building_logits(**reference)` gives."""
    return Ground(
        name=name,
        about=about,
        side_effects=SIDE_EFFECTS,
        scales=(*map(str, widths), TABLE),
        starts=STARTS,
        rates=(0.001, 0.003, 0.01),
        updates=100,
        every=2,
        build=lambda scale: _learner(scale, reference),
        lanes=30,
    )


def _learner(scale: str, reference: dict[str, Any]) -> Learner:
    world = worlds.tabulate(worlds.burning_building())
    # an end looks like the cell that it happens in
    problem = frontiers.exact_problem(world, side_effects=SIDE_EFFECTS, group=world.obs.argmax(-1))
    network = _table(problem, world) if scale == TABLE else _mlp(int(scale), world)
    logits = jnp.asarray(worlds.burning_building_logits(**reference), jnp.float32)[: problem.num_groups]
    before = frontiers.cell_law(problem, frontiers.log_policy(problem, logits))

    def policy(params: Params) -> Array:
        return jax.nn.log_softmax(network.apply(params, world.obs).policy.logits)

    def begin(start: str, key: Array) -> tuple[Params, Array]:
        params = network.init(key)
        if start == RANDOM:
            return params, jnp.zeros(())
        target = {COMPETENT: outcomes.pump, CAREFUL: outcomes.ipf}[start](before, HALF).law
        teacher = frontiers.log_policy(problem, teach(problem, logits, target))
        return learn(lambda params: frontiers.trajectory_kl(problem, teacher, policy(params)), params, STUDENT_RATE)

    def learnt_from(params: Params, key: Array) -> SampledProblem:
        del key  # where a policy stands is exact
        sampled = frontiers.network_problem(world, network, params, side_effects=SIDE_EFFECTS, group_size=ATTEMPTS)
        return sampled._replace(standing=lambda params: _standing(sampled.standing(params)))

    return Learner(begin, learnt_from)


def _mlp(width: int, world: TableWorld) -> Network:
    return networks.mlp_actor_critic(world.obs_shape, world.action_space, hidden=(width, width))


def _table(problem: ExactProblem, world: TableWorld) -> Network:
    """A table by the number that an observation is one-hot in."""
    table = networks.tabular_actor_critic(problem.num_groups, world.action_space)
    return table._replace(apply=lambda params, obs: table.apply(params, obs.argmax(-1, keepdims=True)))


def teach(problem: ExactProblem, logits: Array, law: Array) -> Array:
    """Logits near the given ones whose outcome law is `law` `[2, Z]`, as far as the world allows: where Adam comes to
    from there on KL(law ‖ law of the logits)."""
    log_law = jnp.log(jnp.maximum(law, 1e-12))

    def miss(logits: Array) -> Array:
        mine = jnp.maximum(frontiers.cell_law(problem, frontiers.log_policy(problem, logits)), 1e-12)
        return (law * (log_law - jnp.log(mine))).sum()

    return learn(miss, logits, TEACHER_RATE)[0]


def learn(loss: Callable[[Any], Array], params: Any, rate: float) -> tuple[Any, Array]:
    """`LESSONS` steps of Adam on a loss, its rate falling to 0 on a cosine: `(params, loss)`."""
    rate_of = optax.cosine_decay_schedule(rate, LESSONS)
    step = make_step((lambda params, batch: (loss(params), {}), optax.adam(rate_of)))
    nothing: Any = None

    def update(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        return step.update(*carry, nothing, nothing)[:2], None

    (params, _), _ = jax.lax.scan(update, (params, step.init(params)), None, length=LESSONS)
    return params, loss(params)


def _standing(point: Point) -> Standing:
    return Standing(
        success=point.success,
        law=point.law,
        side_effect_kl=point.side_effect_kl,
        trajectory_kl=point.trajectory_kl,
        trajectory_kl_start_new=point.trajectory_kl_ref_new,
        held_out=jnp.full_like(point.law, jnp.nan),
    )
