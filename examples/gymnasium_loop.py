"""PPO on a Gymnasium environment, which steps in Python on the host: its steps become a `po.Rollout`.

    pip install gymnasium
    python examples/gymnasium_loop.py

What matters is in `collect`: terminated and truncated are kept apart, and so is the observation that a step ended with,
before the reset. An episode that time cut off is bootstrapped from it, and one that is over is not.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import polopt_jax as po
from polopt_jax import envs, networks


def collect(environments, obs, act, key, num_steps):
    """`num_steps` steps of each environment: the observations to go on from, a rollout [T, B], finished returns."""
    steps, returns = [], []
    for _ in range(num_steps):
        key, act_key = jax.random.split(key)
        action, log_prob = jax.device_get(act(obs, act_key))
        stepped = [env.step(int(a)) for env, a in zip(environments, action, strict=True)]
        next_obs, reward, terminated, truncated, info = (np.array(x) for x in zip(*stepped, strict=True))
        truncated = truncated & ~terminated  # never both
        steps.append((obs, action, log_prob, reward.astype(np.float32), terminated, truncated, next_obs))
        following = next_obs.copy()
        for b in np.flatnonzero(terminated | truncated):
            following[b], _ = environments[b].reset()
            returns.append(info[b].get("episode", {}).get("r", np.nan))
        obs = following
    names = ("obs", "action", "log_prob", "reward", "terminated", "truncated", "next_obs")
    fields = {name: jnp.asarray(np.stack(x)) for name, x in zip(names, zip(*steps, strict=True), strict=True)}
    return obs, po.Rollout(**fields, mask=jnp.ones(fields["reward"].shape, bool)), returns


def main(make=None, num_envs=8, num_steps=128, updates=40, seed=0):
    if make is None:
        import gymnasium

        make = lambda: gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("CartPole-v1"))  # noqa: E731
    environments = [make() for _ in range(num_envs)]
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(environments)])

    network = networks.mlp_actor_critic(obs.shape[1:], envs.Discrete(int(environments[0].action_space.n)))
    term = po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()), entropy=(0.01, po.entropy_bonus()))
    step = po.epochs(po.make_step((po.objective(network.apply, term), optax.adam(2e-3))), 4, 4)

    @jax.jit
    def act(params, obs, key):
        policy = network.apply(params, obs).policy
        action = policy.sample(seed=key)
        return action, policy.log_prob(action)

    @jax.jit
    def learn(params, opt_state, rollout, key):
        value = network.apply(params, rollout.obs).value
        next_value = jnp.where(rollout.terminated, 0.0, network.apply(params, rollout.next_obs).value)
        whole = po.Rollout(**{**vars(rollout), "value": value, "next_value": next_value})
        advantage, target = po.gae(whole, gamma=0.98, lambda_=0.9)
        batch = po.to_batch(whole, advantage=po.standardize(advantage, whole.mask), target=target)
        return step.update(params, opt_state, batch, key)

    init_key, key = jax.random.split(jax.random.key(seed))
    params = network.init(init_key)
    opt_state, history = step.init(params), []
    for number in range(updates):
        act_key, step_key = jax.random.split(jax.random.fold_in(key, number))
        obs, rollout, returns = collect(environments, obs, lambda *x: act(params, *x), act_key, num_steps)  # noqa: B023
        params, opt_state, _ = learn(params, opt_state, rollout, step_key)
        history.append(float(np.mean(returns)) if returns else np.nan)
        if number % 10 == 9:
            print(f"update {number + 1:3}: return {history[-1]:.0f} of {len(returns)} finished episodes")
    return history


if __name__ == "__main__":
    main()
