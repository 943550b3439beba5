"""What measuring outcomes costs: a PPO update with and without the report, over the same batch.

python -m benchmarks.outcomes_cost [--repeats 30]
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import optax

import polopt_jax as po
from benchmarks.record import interleaved, median_ratio, save
from polopt_jax import outcomes
from polopt_jax.envs import Box
from polopt_jax.networks import mlp_actor_critic

OBS, ACTIONS = 27, 8
EPISODES, LENGTH = 256, 100


def make_batch(network: Any, params: Any) -> po.Batch:
    """Whole episodes `[256, 100]` of random observations, with two features."""
    keys = jax.random.split(jax.random.key(0), 6)
    obs = jax.random.normal(keys[0], (EPISODES, LENGTH, OBS))
    policy = network.apply(params, obs).policy
    action = policy.sample(seed=keys[1])
    return po.Batch(
        obs=obs,
        action=action,
        mask=jnp.ones((EPISODES, LENGTH), bool),
        log_prob=policy.log_prob(action),
        advantage=jax.random.normal(keys[2], (EPISODES, LENGTH)),
        target=jax.random.normal(keys[3], (EPISODES, LENGTH)),
        outcome={
            "success": jax.random.bernoulli(keys[4], 0.3, (EPISODES,)),
            "side_effect": jax.random.bernoulli(keys[5], 0.1, (EPISODES,)),
        },
    )


def main() -> None:
    """Measures the ratios and stores them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    network = mlp_actor_critic((OBS,), Box(ACTIONS), hidden=(64, 64))
    params = network.init(jax.random.key(0))
    batch = make_batch(network, params)
    term = po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()), entropy=(0.01, po.entropy_bonus()))
    step = po.epochs(po.make_step((po.objective(network.apply, term), optax.adam(3e-4))), 4, 8)
    opt_state, key = step.init(params), jax.random.key(1)
    z = lambda o: o["side_effect"]  # noqa: E731

    def update(step: po.Step) -> Any:
        return jax.jit(lambda: step.update(params, opt_state, batch, key)[::2])

    def reported() -> Any:
        after, _, metrics = step.update(params, opt_state, batch, key)
        report = outcomes.outcome_report(
            network.apply, params, after, batch, success=lambda o: o["success"], side_effect=z
        )
        return after, metrics | report.metrics()

    monitored = po.monitored(step, network.apply, side_effect=outcomes.outcome_kl(2, of=z))
    actions_only = po.monitored(step, network.apply, kl=po.action_kl)
    runs = {
        "plain": update(step),
        "monitored, action_kl": update(actions_only),
        "monitored, outcome_kl": update(monitored),
        "outcome_report": jax.jit(reported),
    }
    times = interleaved(runs, repeats=repeats)
    save(
        "outcomes-cost",
        {f"{name} over plain": median_ratio(times[name], times["plain"]) for name in runs if name != "plain"},
    )


if __name__ == "__main__":
    main()
