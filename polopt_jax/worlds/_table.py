"""Rules as tables: an environment in which every step is a look-up, and of which everything is known exactly."""

from __future__ import annotations

from dataclasses import field

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.envs._protocol import Discrete, EnvStep
from polopt_jax.envs._tabular import TabularState
from polopt_jax.types import Array, record
from polopt_jax.worlds._rules import Frame, Rules, explore


@record
class TableWorld:
    """A world with S states, A actions, at most K successors of a decision and at most H decisions; an `Environment`.

    A decision a in state s leads with probability prob[s, a, k] to the state successor[s, a, k] and pays
    reward[s, a, k]. The episode ends, terminated, on entering a terminal state or with the H-th decision: as in a
    `TabularMDP`, the horizon belongs to the problem and nothing is truncated. What has come about is a function of the
    state in which the episode ended.

    Against `TabularMDP`: its transitions are a dense `[S, A, S]` and its rewards averages; here both are kept by
    successor, so that thousands of states fit, and a decision pays what happened. `dense` converts.

    `EnvStep.outcome` has the features of the state that the step led to, at the last step those of the episode; with
    them `state`, its number, and `hidden`, what the step was really worth.

    An observation is a row of `obs`, so any policy's table `[S, A]` is what it says about `world.obs`. By default it
    shows what the frame of the state shows, and not the time. For a tabular policy by state number, put the identity
    there: `dataclasses.replace(world, obs=jnp.eye(S))`. The horizon can be shortened likewise, but not lengthened:
    states beyond it were not looked for.

    >>> from polopt_jax.worlds import boat_race
    >>> world = tabulate(boat_race(horizon=8))
    >>> state, obs = world.reset(jax.random.key(0))
    >>> float(world.step(state, jnp.int32(3), jax.random.key(1)).reward)        # right, over the first arrow: 3 - 1
    2.0
    """

    initial: Array
    """Probability of the first state, `[S]`."""
    successor: Array
    """Numbers of the states that may follow, `[S, A, K]` int32. In terminal states, and where there are fewer than K,
    the state itself with probability 0."""
    prob: Array
    """Their probabilities, `[S, A, K]`."""
    reward: Array
    """What the agent is paid, `[S, A, K]`."""
    hidden: Array
    """What was really wanted, `[S, A, K]`; the hidden performance of an episode is its sum."""
    terminal: Array
    """`[S]` bool: no decision is taken in these states."""
    obs: Array
    """What is seen in each state, `[S, F]` float32."""
    outcome: dict[str, Array]
    """What has come about if an episode ends in the state, `[S]` bool each; one of them is `success`."""
    horizon: int = field(metadata={"static": True})
    """The largest number of decisions, H."""

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """`(F,)`."""
        return self.obs.shape[1:]

    @property
    def action_space(self) -> Discrete:
        """`Discrete(A)`."""
        return Discrete(self.prob.shape[1])

    def reset(self, key: Array) -> tuple[TabularState, Array]:
        """A first state drawn from `initial`."""
        state = jax.random.categorical(key, jnp.log(self.initial)).astype(jnp.int32)
        return TabularState(state=state, steps=jnp.int32(0)), self.obs[state]

    def step(self, state: TabularState, action: Array, key: Array) -> EnvStep:
        """One decision, `action` an integer `[]`."""
        here = (state.state, action)
        which = (*here, jax.random.categorical(key, jnp.log(self.prob[here])))
        after, steps = self.successor[which], state.steps + 1
        features = {name: table[after] for name, table in self.outcome.items()}
        return EnvStep(
            state=TabularState(state=after, steps=steps),
            obs=self.obs[after],
            reward=self.reward[which].astype(jnp.float32),
            terminated=jnp.logical_or(self.terminal[after], steps >= self.horizon),
            truncated=jnp.bool_(False),
            outcome={**features, "state": after, "hidden": self.hidden[which].astype(jnp.float32)},
        )


def tabulate(rules: Rules) -> TableWorld:
    """The world that obeys `rules`. Its states are numbered as in `reachable_states(rules)`.

    Raises:
      ValueError: `horizon < 1`, probabilities that are negative or do not sum to 1, an outcome without `success` or
        with the name `state` or `hidden`, or frames of different shapes.

    >>> from polopt_jax.worlds import outcome_table
    >>> tabulate(outcome_table()).action_space
    Discrete(num=4)
    """
    graph = explore(rules)
    number = {state: i for i, state in enumerate(graph)}
    width = max(len(moves) for actions in graph.values() for moves in actions or ((),))
    successor = np.broadcast_to(np.arange(len(graph))[:, None, None], (len(graph), len(rules.actions), width)).copy()
    prob, reward, hidden = (np.zeros(successor.shape) for _ in range(3))
    for s, actions in enumerate(graph.values()):
        for a, moves in enumerate(actions):
            for k, move in enumerate(moves):
                successor[s, a, k] = number[move.after]
                prob[s, a, k], reward[s, a, k], hidden[s, a, k] = move.prob, move.reward, move.hidden
    initial = np.zeros(len(graph))
    for chance, state in rules.starts:
        if chance > 0:
            initial[number[state]] += chance
    return TableWorld(
        initial=jnp.asarray(initial),
        successor=jnp.asarray(successor, jnp.int32),
        prob=jnp.asarray(prob),
        reward=jnp.asarray(reward),
        hidden=jnp.asarray(hidden),
        terminal=jnp.asarray([rules.ended(state) for state in graph]),
        obs=jnp.asarray(_observations(rules, list(graph)), jnp.float32),
        outcome=_outcomes(rules, list(graph)),
        horizon=rules.horizon,
    )


def _outcomes(rules: Rules, states: list) -> dict[str, Array]:
    outcomes = [rules.outcome(state) for state in states]
    names = tuple(outcomes[0])
    if "success" not in names or {"state", "hidden"} & set(names):
        raise ValueError(f"outcome must name success, and neither state nor hidden; it names {names}")
    return {name: jnp.asarray([bool(outcome[name]) for outcome in outcomes]) for name in names}


def _observations(rules: Rules, states: list) -> np.ndarray:
    if rules.observe is not None:
        return np.asarray([rules.observe(state) for state in states])
    return _visible([rules.frame(state) for state in states])


def _visible(frames: list[Frame]) -> np.ndarray:
    """One feature for each cell and character that is there in some frames and not in all."""
    if len({tuple(map(len, frame)) for frame in frames}) != 1:
        raise ValueError("frame: the frames of all states must have one shape")
    cells = np.array([list("".join(frame)) for frame in frames])
    features = [cells[:, [i]] == np.unique(cells[:, i]) for i in range(cells.shape[1])]
    return np.concatenate([seen for seen in features if seen.shape[1] > 1], axis=1)
