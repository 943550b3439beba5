"""What composition and the natural gradient cost, in units of one policy gradient of the same batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import polopt_jax as po
from benchmarks.entrants.race import Program, race
from benchmarks.parts._part import SB3_CONTRIB, Case, Part, Wanted, told
from benchmarks.parts.rows import AT_LEAST, AT_MOST, Goal, Row, of_numbers, of_times
from benchmarks.record import interleaved
from polopt_jax.envs import Box
from polopt_jax.networks import mlp_actor_critic, shared_actor_critic

OBS, ACTIONS, HIDDEN = 87, 8, (256, 256)
GRADIENT = "one policy gradient"
MEGABYTE = 1e6
SHARE = 1024
"""Rows."""
MANY = 65536
"""Decisions that shares are for."""
PRODUCT, CG, IN_SHARES = "product", "CG(10)", f"CG(10) in shares of {SHARE} rows"


@partial(jax.jit, static_argnames=("network", "size"))
def make_batch(network: Any, params: Any, size: int) -> po.Batch:
    """On-policy decisions of random observations, `[size, 1]`."""
    keys = jax.random.split(jax.random.key(0), 4)
    obs = jax.random.normal(keys[0], (size, 1, OBS))
    policy = network.apply(params, obs).policy
    action = policy.sample(seed=keys[1])
    return po.Batch(
        obs=obs,
        action=action,
        mask=jnp.ones((size, 1), bool),
        log_prob=policy.log_prob(action),
        advantage=jax.random.normal(keys[2], (size, 1)),
        target=jax.random.normal(keys[3], (size, 1)),
    )


def flops(objective: po.Objective, params: Any, batch: po.Batch) -> float:
    """XLA's own count for the loss and its gradient."""
    compiled = jax.jit(jax.value_and_grad(objective, has_aux=True)).lower(params, batch).compile()
    analysis = compiled.cost_analysis()
    return float((analysis[0] if isinstance(analysis, list) else analysis)["flops"])


def composition(size: int) -> dict[str, Any]:
    """Flops of clip + value + entropy over clip alone, for a network with one trunk."""
    network = shared_actor_critic((OBS,), Box(ACTIONS), hidden=HIDDEN)
    params = network.init(jax.random.key(0))
    batch = make_batch(network, params, size)
    clip = po.objective(network.apply, po.ppo())
    term = po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()), entropy=(0.01, po.entropy_bonus()))
    apart = po.weighted_sum(
        policy=(1.0, po.objective(network.apply, po.ppo())),
        value=(0.5, po.objective(network.apply, po.value_loss())),
        entropy=(0.01, po.objective(network.apply, po.entropy_bonus())),
    )
    one = flops(clip, params, batch)
    counted = {
        "clip + value + entropy": (flops(po.objective(network.apply, term), params, batch), Goal(AT_MOST, 1.05)),
        "three objectives that each call the network": (flops(apart, params, batch), None),
    }
    return told(
        [
            of_numbers(what, "clip alone", "Mflop", n / 1e6, one / 1e6, size=size, size_of="decisions", goal=goal)
            for what, (n, goal) in counted.items()
        ]
    )


class Forms:
    """Fisher-vector products of one batch, written in several ways, and CG on ours."""

    def __init__(self, size: int):
        self.network = mlp_actor_critic((OBS,), Box(ACTIONS), hidden=HIDDEN, activation=nn.tanh)
        self.params = jax.jit(self.network.init)(jax.random.key(0))
        self.batch = make_batch(self.network, self.params, size)
        self.loss = po.objective(self.network.apply, po.surrogate())

    def gradient(self, params: Any, batch: po.Batch) -> Any:
        return jax.grad(lambda p: self.loss(p, batch)[0])(params)

    def product(self, params: Any, batch: po.Batch, v: Any) -> Any:
        return po.fisher_operator(self.network.apply, po.action_kl, params, batch)(v)

    def solve(self, params: Any, batch: po.Batch, g: Any) -> Any:
        fisher = po.fisher_operator(self.network.apply, po.action_kl, params, batch, damping=1e-3)
        return po.conjugate_gradient(fisher, g, iters=10, tol=0.0)

    def solve_in_shares(self, params: Any, batch: po.Batch, g: Any) -> Any:
        """The same from shares of the rows, one after the other."""
        shares = max(1, batch.mask.shape[0] // SHARE)
        its = {"damping": 1e-3, "num_microbatches": shares}
        fisher = po.fisher_operator(self.network.apply, po.action_kl, params, batch, **its)
        return po.conjugate_gradient(fisher, g, iters=10, tol=0.0)

    def divergence(self, params: Any, batch: po.Batch) -> jax.Array:
        old = jax.lax.stop_gradient(self.network.apply(self.params, batch.obs))
        return po.action_kl(old, self.network.apply(params, batch.obs), batch)

    def twice_backward(self, params: Any, batch: po.Batch, v: Any) -> Any:
        """The gradient of <∇KL, v>, as torch's libraries have it."""

        def along(p: Any) -> jax.Array:
            found = jax.tree.map(lambda g, v: (g * v).sum(), jax.grad(self.divergence)(p, batch), v)
            return jax.tree.reduce(jnp.add, found)

        return jax.grad(along)(params)

    def twice_backward_solve(self, params: Any, batch: po.Batch, g: Any) -> Any:
        """CG(10) on the same, damped alike."""
        matvec = lambda v: jax.tree.map(lambda f, x: f + 1e-3 * x, self.twice_backward(params, batch, v), v)  # noqa: E731
        return po.conjugate_gradient(matvec, g, iters=10, tol=0.0)


def products(size: int, rounds: int) -> dict[str, Any]:
    """A Fisher-vector product and a CG(10) direction, over one gradient; planned memory over double backprop's."""
    forms = Forms(size)
    direction = jax.jit(forms.gradient)(forms.params, forms.batch)
    functions: dict[str, Callable[..., Any]] = {
        PRODUCT: forms.product,
        CG: forms.solve,
        **({IN_SHARES: forms.solve_in_shares} if size > SHARE else {}),
        "product, two backward passes": forms.twice_backward,
        "CG(10), two backward passes": forms.twice_backward_solve,
    }
    compiled = {name: jax.jit(f).lower(forms.params, forms.batch, direction).compile() for name, f in functions.items()}
    for name in functions.keys() & {CG, IN_SHARES}:
        taken = int(compiled[name](forms.params, forms.batch, direction)[1].iterations)
        if taken != 10:
            raise RuntimeError(f"{name} stopped after {taken} iterations: the time would be of something else")
    runs = {name: (lambda f=f: f(forms.params, forms.batch, direction)) for name, f in compiled.items()}
    gradient = jax.jit(forms.gradient)
    seconds = interleaved({GRADIENT: lambda: gradient(forms.params, forms.batch), **runs}, repeats=rounds)
    shared = {"size": size, "size_of": "decisions"}
    goals = {PRODUCT: Goal(AT_MOST, 1.6), CG: Goal(AT_MOST, 13.0)}
    rows: list[Row] = [
        of_times(name, GRADIENT, seconds[name], seconds[GRADIENT], goal=goals.get(name), **shared) for name in functions
    ]
    memory = {name: f.memory_analysis().temp_size_in_bytes / MEGABYTE for name, f in compiled.items()}

    def of_memory(name: str, other: str, goal: Goal | None = None) -> Row:
        return of_numbers(f"{name}: memory", other, "MB", memory[name], memory[other], goal=goal, **shared)

    rows += [
        of_memory(PRODUCT, f"{PRODUCT}, two backward passes"),
        of_memory(CG, f"{CG}, two backward passes", Goal(AT_MOST, 0.5)),
    ]
    if IN_SHARES in functions:
        time, space = (Goal(AT_MOST, 1.0), Goal(AT_MOST, 0.1)) if size >= MANY else (None, None)
        rows.append(of_times(IN_SHARES, CG, seconds[IN_SHARES], seconds[CG], goal=time, **shared))
        rows.append(of_memory(IN_SHARES, CG, space))
    return told(rows)


def update(wanted: Wanted, size: int, rounds: int) -> dict[str, Any]:
    """A whole update of TRPO with its critic, from data to parameters, beside SB3-contrib's on as many."""
    options = {"decisions": size}
    theirs = wanted.peers.program(SB3_CONTRIB, "sb3_trpo", options)
    times = race([Program("ours", "ours_trpo", options), theirs], repeats=rounds)
    ours, its = times["ours"], times[theirs.name]
    note = f"ours: {ours.told['differs']}; theirs: {its.told['differs']}"
    more = {"size": size, "size_of": "decisions", "goal": Goal(AT_LEAST, 1.7), "note": note}
    times_of = [ours.seconds, its.seconds]
    row = of_times("TRPO, an update", theirs.name, *times_of, work=size, unit="decisions/s", **more)
    peaks = [timed.told["peak_mb"] for timed in (ours, its)]
    resident = of_numbers("TRPO, memory of the process", theirs.name, "MB", *peaks, size=size, size_of="decisions")
    return told([row, resident], kl={name: timed.told["kl"] for name, timed in times.items()})


def cases(wanted: Wanted) -> list[Case]:
    small = 256 if wanted.quick else 4096
    found = [Case("composition", lambda: composition(small))]
    sizes = (small,) if wanted.quick else (4096, MANY)
    for size in sizes:
        rounds = wanted.rounds(15 if size < 10_000 else 5)
        found.append(Case(f"fisher-{size}", lambda size=size, rounds=rounds: products(size, rounds)))
        if wanted.peers.has(SB3_CONTRIB):
            found.append(Case(f"update-{size}", lambda size=size, rounds=rounds: update(wanted, size, rounds)))
    return found


PART = Part(
    "Flops of composed terms; Fisher-vector products and CG(10) in units of one policy gradient; an update of TRPO.",
    cases,
    (SB3_CONTRIB,),
)
