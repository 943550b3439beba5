"""What composition and the natural gradient cost: flops of composed terms, and CG iterations in units of a gradient.

python -m benchmarks.solvers [--batch 4096] [--repeats 15]
"""

import argparse
import statistics
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import polopt_jax as po
from benchmarks.record import interleaved, median_ratio, save
from polopt_jax.envs import Box
from polopt_jax.networks import mlp_actor_critic

OBS, ACTIONS, HIDDEN = 87, 8, (256, 256)


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


def composition(size: int) -> dict[str, float]:
    """Flops of clip + value + entropy over clip alone, for a network with one trunk."""
    from polopt_jax.networks import shared_actor_critic

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
    return {
        "clip_value_entropy_over_clip": round(flops(po.objective(network.apply, term), params, batch) / one, 4),
        "three_objectives_that_each_call_the_network_over_clip": round(flops(apart, params, batch) / one, 4),
    }


def conjugate_gradients(size: int, repeats: int) -> dict[str, float]:
    """One CG iteration, and a whole CG(10) direction, over one policy gradient of the same batch."""
    network = mlp_actor_critic((OBS,), Box(ACTIONS), hidden=HIDDEN, activation=nn.tanh)
    params = network.init(jax.random.key(0))
    batch = make_batch(network, params, size)
    loss = po.objective(network.apply, po.surrogate())
    gradient = jax.jit(lambda p, b: jax.grad(lambda p: loss(p, b)[0])(p))
    direction_of = gradient(params, batch)

    def direction(p: Any, b: po.Batch, iters: jax.Array) -> Any:
        fisher = po.fisher_operator(network.apply, po.action_kl, p, b, damping=1e-3)
        return po.conjugate_gradient(fisher, direction_of, iters=iters, tol=0.0)

    product = jax.jit(lambda p, b, v: po.fisher_operator(network.apply, po.action_kl, p, b)(v))
    solve = jax.jit(direction)
    taken = [int(solve(params, batch, jnp.int32(n))[1].iterations) for n in (10, 20)]
    if taken != [10, 20]:
        raise RuntimeError(f"CG stopped early, after {taken} iterations: the timing would be of something else")
    times = interleaved(
        {
            "gradient": lambda: gradient(params, batch),
            "product": lambda: product(params, batch, direction_of),
            "cg10": lambda: solve(params, batch, jnp.int32(10)),
            "cg20": lambda: solve(params, batch, jnp.int32(20)),
        },
        repeats=repeats,
    )
    ten_more = [b - a for a, b in zip(times["cg10"], times["cg20"], strict=True)]
    return {
        "one_cg_iteration_over_one_gradient": round(median_ratio(ten_more, times["gradient"]) / 10, 4),
        "cg10_direction_over_one_gradient": median_ratio(times["cg10"], times["gradient"]),
        "one_fisher_product_over_one_gradient": median_ratio(times["product"], times["gradient"]),
        "gradient_ms_median": round(1e3 * statistics.median(times["gradient"]), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    figures = {
        "batch": arguments.batch,
        "network": f"{OBS}-{HIDDEN}-{ACTIONS}, tanh, Gaussian",
        **composition(arguments.batch),
        **conjugate_gradients(arguments.batch, arguments.repeats),
    }
    save(f"solvers-{arguments.batch}", figures)


if __name__ == "__main__":
    main()
