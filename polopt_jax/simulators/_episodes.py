"""Whole episodes of simulators: what a policy is worth, and one of them step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from polopt_jax.boundaries import check_outputs
from polopt_jax.evaluation import Episode, Evaluation
from polopt_jax.ranges import Count, check_range
from polopt_jax.simulators._fleet import fleet, sync_vector
from polopt_jax.simulators._simulator import Simulator
from polopt_jax.types import Array, Obs, Outputs

SIDE_BY_SIDE = 64
"""Simulators of an evaluation at most; each plays the next episode when it has played one."""


def evaluate_simulator(
    simulator: Simulator,
    act: Callable[[Obs], Outputs],
    key: Array,
    *,
    episodes: Count = 100,
    max_steps: Count = 10_000,
    vector: Callable[[Callable[[], Any], int], Any] = sync_vector,
) -> Evaluation:
    """N = `episodes` whole episodes from fresh first states, each counted once: `po.evaluate_policy` of a simulator.

    Args:
      simulator: of `simulators.simulator`.
      act: `obs [B, ...] -> Outputs`: a `Policy`, `po.greedy(policy)`, or any model bound to its parameters.
      key: randomness of first states and of actions. Episode number n of a key begins as it does in any other call.
      episodes: N.
      max_steps: after so many an episode is given up; its `ended` is False.
      vector: as for `simulators.fleet`.

    Returns:
      An `Evaluation` of NumPy arrays, without outcomes.

    Raises:
      ValueError: `episodes` or `max_steps` is not positive.
      SimulatorError: a simulator fails.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> from polopt_jax.simulators import simulator
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 2))))
    >>> found = evaluate_simulator(simulator("CartPole-v1"), act, jax.random.key(0), episodes=3)
    >>> bool((found.episode_return == found.length).all()), found.ended.tolist()
    (True, [True, True, True])
    """
    check_range("evaluate_simulator", Count, episodes=episodes, max_steps=max_steps)
    rows, takes = min(episodes, SIDE_BY_SIDE), _taking(act)
    found = {"total": np.zeros(episodes), "length": np.zeros(episodes, np.int32)}
    found |= {name: np.zeros(episodes, bool) for name in ("ended", "broken")}
    with fleet(simulator, num_envs=rows, vector=vector) as ships:
        playing = np.arange(rows)  # the episode that each simulator plays; from `episodes` on, none
        obs = ships.reset(np.ones(rows, bool), _numbers(key, playing))
        begun, number = rows, 0
        while (playing < episodes).any():
            stepped = ships.step(takes(obs, jax.random.fold_in(key, number)))
            number += 1
            busy, finite = playing < episodes, stepped.finite
            sound = busy & finite
            found["total"][playing[sound]] += stepped.reward[sound]
            found["length"][playing[sound]] += 1
            done = finite & (stepped.terminated | stepped.truncated)
            found["ended"][playing[busy & done]] = True
            found["broken"][playing[busy & ~finite]] = True
            over = done | ~finite
            over[busy] |= found["length"][playing[busy]] >= max_steps
            obs = stepped.obs
            if over.any():
                next_ones = begun + np.cumsum(over[busy]) - 1
                begun += int(over[busy].sum())
                playing[np.flatnonzero(busy)[over[busy]]] = next_ones[over[busy]]
                obs = ships.reset(over, _numbers(key, playing))
    return Evaluation(
        episode_return=np.where(found["ended"], found["total"], np.nan),  # type: ignore[arg-type]
        length=found["length"],  # type: ignore[arg-type]
        ended=found["ended"],  # type: ignore[arg-type]
        broken=found["broken"],  # type: ignore[arg-type]
        outcome={},
        outcome_mean={},
    )


def simulate_episode(
    simulator: Simulator,
    act: Callable[[Obs], Outputs],
    key: Array,
    *,
    max_steps: Count = 1000,
    show: Callable[[Any], Any] = lambda env: (),
) -> Episode:
    """One whole episode with all that there is to see of it: the first that `evaluate_simulator` counts with this key,
    where that plays no other beside it.

    Args:
      simulator, act, key: as for `evaluate_simulator`.
      max_steps: an episode that takes more is shown so far.
      show: what to keep of the environment in each state, an array or a tree of them: `lambda env: env.render()` of
        `simulator.filmed()`.

    Returns:
      An `Episode` of NumPy arrays, as long as it is; its actions are what the simulator was sent.

    Raises:
      ValueError: `max_steps` is not positive.
      SimulatorError: the simulator fails.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> from polopt_jax.simulators import simulator
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 2))))
    >>> seen = simulate_episode(simulator("CartPole-v1"), act, jax.random.key(0), max_steps=3)
    >>> seen.obs.shape, seen.action.shape, seen.reward.tolist()
    ((4, 4), (3,), [1.0, 1.0, 1.0])
    """
    check_range("simulate_episode", Count, max_steps=max_steps)
    takes, taken, sent, is_broken = _taking(act), [], np.zeros(1), False
    with fleet(simulator, num_envs=1) as one:
        seen = [one.reset(np.ones(1, bool), _numbers(key, np.zeros(1, int)))]
        shown = [one.seen(show)]
        while len(taken) < max_steps:
            action = takes(seen[-1], jax.random.fold_in(key, len(taken)))
            stepped, sent = one.step(action), simulator.send(action)
            if is_broken := not stepped.finite[0]:
                break
            seen.append(stepped.obs)
            shown.append(one.seen(show))
            taken.append((sent, stepped.reward, stepped.terminated, stepped.truncated))
            if stepped.terminated[0] or stepped.truncated[0]:
                break
    columns = zip(("action", "reward", "terminated", "truncated"), zip(*taken, strict=True), strict=True)
    like: dict[str, Any] = {"action": sent, "reward": np.zeros(1), "terminated": np.zeros(1, bool)}
    fields: dict[str, Any] = {name: x[:0] for name, x in (like | {"truncated": like["terminated"]}).items()}
    fields |= {name: np.concatenate(column) for name, column in columns} if taken else {}
    ends: dict[str, Any] = {"length": np.int32(len(taken)), "broken": np.bool_(is_broken)}
    views = jax.tree.map(lambda *xs: np.stack(xs), *shown)
    return Episode(obs=np.concatenate(seen), shown=views, outcome={}, **fields, **ends)  # type: ignore[arg-type]


def _taking(act: Callable[[Obs], Outputs]) -> Callable[[np.ndarray, Array], np.ndarray]:
    """`(obs [B, ...], key) -> action [B, ...]` on the host."""

    @jax.jit
    def takes(obs: Array, key: Array) -> Array:
        law = check_outputs("evaluate_simulator", act(obs)).policy
        return law.squash(law.sample(seed=key))

    return lambda obs, key: np.asarray(takes(obs, key))


def _numbers(key: Array, episodes: np.ndarray) -> list[int]:
    """What each episode of a key draws from."""
    first = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()]
    return [int(np.random.SeedSequence((*first, int(n))).generate_state(1)[0] >> 1) for n in episodes]
