"""Is it an environment? Shapes and types where the loop first meets one, and everything else when asked."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.boundaries import described
from polopt_jax.envs._protocol import ActionSpace, Box, Discrete, Environment, EnvStep, MultiDiscrete
from polopt_jax.guards import finite_at
from polopt_jax.ranges import Count, check_range
from polopt_jax.types import Array


def check_env(env: Environment, key: Array | None = None, *, num_steps: Count = 1000) -> None:
    """Raises unless `env` is an environment as `start` and `unroll` need it. Worth calling once for one of your own.

    Looked at: `obs_shape` and `action_space`; that there are `reset` and `step`; what they return, their shapes and
    dtypes, and that the state keeps its own; that equal keys give equal results; and over `num_steps` random steps,
    begun anew where an episode ends, that observations, rewards and states are finite, and that no step is both
    terminated and truncated (a `done` that holds the time limit too, given as `terminated`, would be learnt from as an
    end that no reward follows). Episodes that are longer than that many steps are not seen to end.

    Warns where an environment seems to reset itself, so that the last observation of an episode is lost: where that
    depends on the key, and no other one does.

    Args:
      env: unbatched.
      key: of the random steps; always the same, if None.
      num_steps: how many.

    Raises:
      TypeError: something is of another kind: no `EnvStep`, flags that are not boolean.
      ValueError: something has another shape or value.

    >>> from polopt_jax.envs import TimeLimit
    >>> check_env(TimeLimit(limit=5))
    """
    check_range("check_env", Count, num_steps=num_steps)
    check_made("check_env", env)
    name = type(env).__name__
    shape = getattr(env, "obs_shape", None)
    if not (isinstance(shape, tuple) and all(isinstance(size, int | np.integer) for size in shape)):
        raise TypeError(f"{name}.obs_shape must be a tuple of whole numbers; it is {shape!r}")
    space = getattr(env, "action_space", None)
    if not isinstance(space, ActionSpace):
        raise TypeError(f"{name}.action_space must be a Discrete, a MultiDiscrete or a Box; it is {space!r}")
    reset_key, act_key, key = jax.random.split(jax.random.key(0) if key is None else key, 3)
    state, obs = check_reset(env, env.reset(reset_key))
    _check_obs(env, obs)
    _check_equal(f"{name}.reset", (state, obs), env.reset(reset_key))
    action = _random_action(env.action_space, act_key)
    step = env.step(state, action, key)
    check_step(env, step, state, obs)
    _check_equal(f"{name}.step", step, env.step(state, action, key))
    _check_walk(name, _walk(env, key, num_steps))


def check_made(caller: str, env: Any) -> None:
    """Raises TypeError for what is no environment: its class, its name, what makes it with its parameters."""
    missing = [name for name in ("reset", "step") if not callable(getattr(env, name, None))]
    hint = ""
    if isinstance(env, type):
        hint = f"; make one: {env.__name__}()"
    elif hasattr(env, "step_env") and not hasattr(env, "obs_shape"):
        hint = "; envs.gymnax_env makes one of it"
    elif isinstance(env, str):
        hint = "; envs.brax_env makes one of a name"
    elif len(missing) == 1:
        hint = f", whose {missing[0]} is {described(getattr(env, missing[0], None))}"
    if hint or missing:
        called = f"the class {env.__name__}" if isinstance(env, type) else described(env)
        raise TypeError(f"{caller}: env must be an environment, with reset and step; it is {called}{hint}")


def check_reset(env: Environment, returned: Any) -> tuple[Any, Any]:
    """What `reset` returned, a pair `(state, obs)`; else TypeError."""
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise TypeError(f"{type(env).__name__}.reset must return (state, obs); it returned {described(returned)}")
    return returned


def check_action(env: Environment, action: Array, rows: tuple[int, ...] = ()) -> None:
    """Raises TypeError or ValueError where a policy's actions, of leading shape `rows`, are not the environment's."""
    space, name = env.action_space, type(env).__name__
    if isinstance(space, Discrete) and not jnp.issubdtype(action.dtype, jnp.integer):
        raise TypeError(
            f"{name} takes whole numbers from 0 to {space.num - 1} ({space}), a Categorical policy; "
            f"the policy's actions are {described(action)}"
        )
    if isinstance(space, MultiDiscrete) and not jnp.issubdtype(action.dtype, jnp.integer):
        raise TypeError(
            f"{name} takes {len(space.nums)} whole numbers ({space}), a MultiCategorical policy; "
            f"the policy's actions are {described(action)}"
        )
    if isinstance(space, Box) and not jnp.issubdtype(action.dtype, jnp.floating):
        raise TypeError(
            f"{name} takes {space.size} real numbers ({space}), a DiagGaussian or TanhGaussian policy; "
            f"the policy's actions are {described(action)}"
        )
    wanted = (*rows, *_action_shape(space))
    if action.shape != wanted:
        raise ValueError(f"{name} takes actions of shape {list(wanted)} ({space}); they are {described(action)}")


def check_step(env: Environment, step: Any, state: Any, obs: Any, rows: tuple[int, ...] = ()) -> None:
    """Raises where what `step` returned is not what the loop can go on with; `rows` is the leading shape of all."""
    name = f"{type(env).__name__}.step"
    if not isinstance(step, EnvStep):
        raise TypeError(f"{name} must return a polopt_jax.envs.EnvStep; it returned {described(step)}")
    for flag in ("terminated", "truncated"):
        x = jnp.asarray(getattr(step, flag))
        if x.dtype != jnp.bool_:
            raise TypeError(f"{name}: {flag} must be boolean; it is {described(x)}")
        _check_rows(name, flag, x, rows)
    reward = jnp.asarray(step.reward)
    if not jnp.issubdtype(reward.dtype, jnp.floating):
        raise TypeError(f"{name}: reward must be a float; it is {described(reward)}")
    _check_rows(name, "reward", reward, rows)
    _check_alike(f"{name}: state", step.state, state)
    _check_alike(f"{name}: obs", step.obs, obs)
    if not isinstance(step.outcome, dict):
        raise TypeError(f"{name}: outcome must be a dict of features, maybe empty; it is {described(step.outcome)}")
    for feature, x in step.outcome.items():
        _check_rows(name, f"outcome[{feature!r}]", jnp.asarray(x), rows)


def _check_rows(name: str, what: str, x: Array, rows: tuple[int, ...]) -> None:
    if x.shape != rows:
        own = x.shape[len(rows) :]
        raise ValueError(f"{name}: {what} must be a scalar []; it has shape {list(own)}")


def _check_alike(what: str, new: Any, old: Any) -> None:
    """Raises where a pytree has not the structure, shapes and dtypes that it had: a scan could not go on with it."""
    if jax.tree.structure(new) != jax.tree.structure(old):
        raise ValueError(f"{what} must keep the structure that reset gave it; it was {_tree(old)}, it is {_tree(new)}")
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(new), jax.tree.leaves(old), strict=True):
        x, y = jnp.asarray(x), jnp.asarray(y)  # noqa: PLW2901
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            where = what + jax.tree_util.keystr(path)
            raise ValueError(f"{where} must stay what reset gave, {described(y)}; it is {described(x)}")


def _tree(tree: Any) -> str:
    return str(jax.tree.structure(tree)).removeprefix("PyTreeDef")


def _check_obs(env: Environment, obs: Any) -> None:
    name = type(env).__name__
    for x in jax.tree.leaves(obs):
        whole = isinstance(x, jax.Array) and (x.dtype == jnp.bool_ or jnp.issubdtype(x.dtype, jnp.integer))
        if not (isinstance(x, jax.Array) and (x.dtype == jnp.float32 or (whole and x is not obs))):
            needs = "obs must be float32 (leaves of a tree also flags or whole numbers)"
            raise TypeError(f"{name}.reset: {needs}; it is {described(x)}")
    if isinstance(obs, jax.Array) and obs.shape != tuple(env.obs_shape):
        raise ValueError(f"{name}.reset: obs must have obs_shape {list(env.obs_shape)}; it is {described(obs)}")


def _check_equal(what: str, first: Any, second: Any) -> None:
    """Raises ValueError where one key gave two results."""
    data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
        if not np.array_equal(*(np.asarray(data(jnp.asarray(z))) for z in (x, y)), equal_nan=True):
            where = jax.tree_util.keystr(path)
            raise ValueError(f"{what} must be a pure function: with one key {where} came out twice, differently")


def _action_shape(space: ActionSpace) -> tuple[int, ...]:
    if isinstance(space, Discrete):
        return ()
    return (len(space.nums),) if isinstance(space, MultiDiscrete) else (space.size,)


def _random_action(space: ActionSpace, key: Array) -> Array:
    if isinstance(space, Box):
        return jax.random.uniform(key, (space.size,), minval=-1.0, maxval=1.0)
    num = space.num if isinstance(space, Discrete) else jnp.asarray(space.nums)
    return jax.random.randint(key, _action_shape(space), 0, num)


class _Walk(NamedTuple):
    """What each of some random steps was, bool `[T]`."""

    terminated: Array
    truncated: Array
    finite: Array
    drawn: Array
    """Whether with another key the observation after it is another."""


def _walk(env: Environment, key: Array, num_steps: int) -> _Walk:
    def step(carry: Any, key: Array) -> tuple[Any, _Walk]:
        act_key, step_key, other_key, reset_key = jax.random.split(key, 4)
        action = _random_action(env.action_space, act_key)
        after, other = (env.step(carry, action, key) for key in (step_key, other_key))
        differs = jax.tree.map(lambda x, y: jnp.any(x != y), after.obs, other.obs)
        drawn = jnp.stack(jax.tree.leaves(differs)).any()
        finite = finite_at((after.state, after.obs, after.reward), ())
        done = after.terminated | after.truncated | ~finite
        fresh, _ = env.reset(reset_key)
        state = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, after.state)
        return state, _Walk(after.terminated, after.truncated, finite, drawn)

    first_key, key = jax.random.split(key)
    return jax.lax.scan(step, env.reset(first_key)[0], jax.random.split(key, num_steps))[1]


def _check_walk(name: str, walked: _Walk) -> None:
    terminated, truncated, finite, drawn = (np.asarray(x) for x in walked)
    if not finite.all():
        raise ValueError(f"{name}: state, obs or reward is not finite after random step {int((~finite).argmax())}")
    if (terminated & truncated).any():
        number = int((terminated & truncated).argmax())
        raise ValueError(f"{name}: random step {number} is terminated and truncated; it can be one of them")
    ended = terminated | truncated
    if ended.any() and drawn[ended].all() and not ended.all() and not drawn[~ended].any():
        warnings.warn(
            f"{name}: the last observation of an episode depends on the key, and no other one does: does step reset "
            "the environment? It must return the true last observation, and leave the reset to the loop",
            stacklevel=3,
        )
