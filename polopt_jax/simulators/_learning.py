"""Recipes on simulators: steps gathered on the host between two compiled updates, and made a rollout like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.algorithms import Algorithm
from polopt_jax.boundaries import check_outputs
from polopt_jax.driver import Hosted, compiler_options, over_seeds
from polopt_jax.fields import with_fields
from polopt_jax.networks import Network
from polopt_jax.normalization import ObsTransform, RewardTransform, scaled_rewards, standardized_observations
from polopt_jax.ranges import Count, check_range
from polopt_jax.rows import Shuffle, shuffled_decisions
from polopt_jax.simulators._course import Course
from polopt_jax.simulators._fleet import Fleet
from polopt_jax.tasks import Task, normalized
from polopt_jax.training import TrainState, train
from polopt_jax.types import Array, ArrayLike, Metrics, Obs, Outputs, Params, Rollout, record


@with_fields
@record
class Gathered:
    """What simulators did under a policy, `[T, B]` (of several seeds `[seeds, T, B]`), as the host saw it."""

    obs: Any
    """Observations as the simulators gave them, `[T, B, ...]` float32."""
    action: Any
    """As the policy speaks it."""
    reward: Any
    """float32; 0 where the simulator broke."""
    terminated: Any
    """bool."""
    truncated: Any
    """bool; never together with `terminated`."""
    next_obs: Any
    """The true observation after the step: at the end of an episode its last, and not the first of the next."""
    mask: Any
    """bool: False where an observation or a reward was not finite."""
    begun: Any
    """`[]` bool: whether every simulator began a new episode with the first step, as at the start of a run."""


@with_fields
@record
class SimulatedState:
    """What a task on simulators remembers from rollout to rollout; the simulators themselves are not in it."""

    normalizer: Any
    """Of the observations: `normalization.RunningStats` where they are standardised."""
    return_scale: Any
    """Of the rewards: `normalization.ReturnScale` where they are scaled."""


def rollout_of(act: Callable[[Obs], Outputs], gathered: Gathered) -> Rollout:
    """The rollout `[T, B]` that `po.unroll` would have made, with log-probabilities and values of the model that acted.

    Args:
      act: `obs -> Outputs`, of observations as the simulators gave them.
      gathered: of one seed.

    >>> import polopt_jax as po
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 2))), value=obs[..., 0])
    >>> obs, no = jnp.ones((3, 2, 4)), jnp.zeros((3, 2), bool)
    >>> done = no.at[1].set(True)
    >>> gathered = Gathered(obs=obs, action=jnp.zeros((3, 2), int), reward=jnp.ones((3, 2)), terminated=done,
    ...                     truncated=no, next_obs=2 * obs, mask=~no, begun=True)
    >>> rollout_of(act, gathered).next_value[:, 0].tolist()
    [2.0, 0.0, 2.0]
    """
    outputs = check_outputs("rollout_of", act(gathered.obs))
    following = act(gathered.next_obs).value
    return Rollout(
        obs=gathered.obs,
        action=gathered.action,
        log_prob=outputs.policy.log_prob(gathered.action),
        reward=gathered.reward,
        terminated=gathered.terminated,
        truncated=gathered.truncated,
        next_obs=gathered.next_obs,
        mask=gathered.mask,
        value=outputs.value,
        next_value=None if following is None else jnp.where(gathered.terminated, 0, following),
    )


def from_simulators(
    recipe: Callable[[Task], Algorithm],
    fleet: Fleet,
    network: Network,
    *,
    num_steps: Count,
    observations: ObsTransform | None = None,
    rewards: RewardTransform | None = None,
    shuffle: Shuffle = shuffled_decisions,
) -> Hosted:
    """Any recipe of `polopt_jax.algorithms` on simulators: T = `num_steps` steps of each, then an update.

    Observations and rewards are normalised as in `tasks.control_task`, and metrics are the same. Every seed of the
    fleet has simulators of its own, and learns what it would alone. A step after which an observation or the reward of
    a simulator is not finite is masked out, counted (`nonfinite_steps`), and begins a new episode of that simulator.

    The state of a simulator cannot be saved. A run that is gone on with begins new episodes, of other numbers than
    those that it began with, and nothing is carried over from those that were cut off: it is another run than one that
    was not interrupted.

    Args:
      recipe: `task -> Algorithm`: `algorithms.ppo`, or with hyperparameters
        `functools.partial(algorithms.ppo, learning_rate=1e-3)`.
      fleet: of `simulators.fleet`, as long as which the run can last.
      network: for its observations and actions.
      num_steps: T.
      observations, rewards, shuffle: as for `tasks.control_task`.

    Returns:
      What `driver.prepare` compiles, with `driver.seed_keys(fleet.seeds[0], len(fleet.seeds))`.

    Raises:
      ValueError: `num_steps` is not positive.
      SimulatorError: while it runs, if a simulator fails.

    >>> from polopt_jax import algorithms, driver, networks
    >>> from polopt_jax.simulators import fleet, simulator
    >>> cartpole = simulator("CartPole-v1")
    >>> network = networks.mlp_actor_critic(cartpole.obs_shape, cartpole.action_space)
    >>> with fleet(cartpole, num_envs=2) as two:
    ...     hosted = from_simulators(algorithms.reinforce, two, network, num_steps=3)
    ...     gathered, _ = hosted.gather(jax.vmap(hosted.init)(driver.seed_keys(0, 1)), 0)
    >>> gathered.obs.shape
    (1, 3, 2, 4)
    """
    check_range("from_simulators", Count, num_steps=num_steps)
    observations = standardized_observations() if observations is None else observations
    rewards = scaled_rewards() if rewards is None else rewards
    num_seeds, course = len(fleet.seeds), Course(fleet)

    def algorithm(gathered: Gathered | None) -> Algorithm:
        return recipe(_task(fleet, network, num_steps, observations, rewards, gathered)._replace(shuffle=shuffle))

    def learn(state: TrainState, gathered: Gathered) -> tuple[TrainState, Metrics]:
        made = algorithm(gathered)
        state, metrics = train(made.collect, made.step, state, updates=1)
        return state, {name: x[0] for name, x in metrics.items()}

    def act(params: Params, normalizer: Any, obs: Array, key: Array) -> tuple[Array, Array, Array]:
        act_key, key = jax.random.split(key)
        law = check_outputs("from_simulators", network.apply(params, observations.apply(normalizer, obs))).policy
        action = law.sample(seed=act_key)
        return action, law.squash(action), key

    acts = jax.jit(over_seeds(act, num_seeds), compiler_options=compiler_options())
    keys_of = jax.jit(_acting_keys)

    def gather(state: TrainState, update: int) -> tuple[Gathered, dict[str, np.ndarray]]:
        begun, key = course.begin(update), keys_of(state)
        normalizer, taken = state.collect_state[0].normalizer, []
        for _ in range(num_steps):
            obs = course.obs
            action, sent, key = acts(state.params, normalizer, _by_seed(obs, num_seeds), key)
            action, sent = (np.asarray(x).reshape(-1, *x.shape[2:]) for x in (action, sent))
            taken.append((obs, action, *course.step(sent)))
        return _gathered(taken, num_seeds, begun=begun), course.told()

    def example(state: TrainState) -> Gathered:
        row = np.zeros((fleet.rows, *fleet.simulator.obs_shape), np.float32)
        keys = jax.eval_shape(keys_of, state)
        normalizer = state.collect_state[0].normalizer
        action = jax.eval_shape(acts, state.params, normalizer, _by_seed(row, num_seeds), keys)[0]
        number, flag = np.zeros(fleet.rows, np.float32), np.zeros(fleet.rows, bool)
        step = (row, np.zeros((fleet.rows, *action.shape[2:]), action.dtype), number, flag, flag, row, flag)
        return _gathered([step] * num_steps, num_seeds, begun=False)

    return Hosted(lambda key: algorithm(None).init(key), gather, learn, example, num_seeds=num_seeds)


def _task(
    fleet: Fleet,
    network: Network,
    num_steps: int,
    observations: ObsTransform,
    rewards: RewardTransform,
    gathered: Gathered | None,
) -> Task:
    """The task whose next rollout is what was gathered; without it, one that can begin."""

    def init(key: Array) -> SimulatedState:
        del key
        obs = jax.ShapeDtypeStruct(fleet.simulator.obs_shape, jnp.float32)
        return SimulatedState(normalizer=observations.init(obs), return_scale=rewards.init(fleet.num_envs))

    def rollout(
        params: Params, state: SimulatedState, key: Array, gamma: ArrayLike
    ) -> tuple[SimulatedState, Rollout, Metrics]:
        del key
        if gathered is None:
            raise ValueError("from_simulators: a rollout is gathered before it is learnt from")
        frozen, begun = state.normalizer, gathered.begun
        raw = rollout_of(lambda obs: network.apply(params, observations.apply(frozen, obs)), gathered)
        ended = _all_ended(rewards, state.return_scale, fleet.num_envs, gamma)
        scale = jax.tree.map(lambda x, y: jnp.where(begun, x, y), ended, state.return_scale)
        normalizer, scale, seen = normalized(observations, rewards, (frozen, scale), raw, gamma)
        return SimulatedState(normalizer=normalizer, return_scale=scale), seen, {}

    return Task(network.apply, network.init, init, rollout, (fleet.num_envs,), num_steps)


def _acting_keys(state: TrainState) -> Array:
    """The keys `[seeds]` with which the next update may act: those that `train` gives `collect`."""
    return jax.vmap(lambda key: jax.random.split(key, 3)[1])(state.key)


def _all_ended(rewards: RewardTransform, state: Any, num_envs: int, gamma: ArrayLike) -> Any:
    """What is remembered of rewards when every episode is over: as after a step that ended all, and is masked out."""
    ended, nothing = jnp.ones((1, num_envs), bool), jnp.zeros((1, num_envs))
    return rewards.apply(state, nothing, ended, ~ended, gamma)[0]


def _by_seed(x: np.ndarray, num_seeds: int) -> np.ndarray:
    """`[N, ...]` as `[seeds, B, ...]`."""
    return x.reshape(num_seeds, -1, *x.shape[1:])


def _gathered(taken: list[tuple[np.ndarray, ...]], num_seeds: int, *, begun: bool) -> Gathered:
    """Steps `[N, ...]` as what is given to `learn`, `[seeds, T, B, ...]`."""
    columns = [np.stack(column) for column in zip(*taken, strict=True)]
    parts = [np.moveaxis(x.reshape(len(x), num_seeds, -1, *x.shape[2:]), 1, 0) for x in columns]
    obs, action, reward, terminated, truncated, next_obs, mask = parts
    breaks = np.concatenate([~mask[:, 1:], np.zeros_like(mask[:, :1])], axis=1)
    return Gathered(
        obs=obs,
        action=action,
        reward=reward,
        terminated=terminated,
        truncated=truncated | (breaks & ~terminated),
        next_obs=next_obs,
        mask=mask,
        begun=np.full(num_seeds, begun),
    )
