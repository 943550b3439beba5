"""Estimators over time, with `terminated` and `truncated` apart.

Only a termination means that no reward follows; at a time limit the value of the *true final observation* stands in
for what would have followed. Each reads a `Rollout`, or the same fields as arrays by keyword.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.boundaries import described
from polopt_jax.masking import accumulate, check_shape
from polopt_jax.ranges import Count, Unit, check_entries, check_range
from polopt_jax.types import Array, ArrayLike, Rollout


def episode_fields(
    caller: str, names: tuple[str, ...], rollout: Rollout | None, arrays: dict[str, Array]
) -> list[Array]:
    """The named fields of a rollout, or the arrays given instead: constants of one shape and one dtype."""
    takes = f"{caller} takes a Rollout, or by keyword {', '.join(names)}"
    if (rollout is None) != (arrays.keys() == set(names)) or (rollout is not None and arrays):
        raise TypeError(f"{takes}; it was given {sorted(arrays)}")
    if rollout is not None and not hasattr(rollout, "next_value"):
        raise TypeError(f"{takes}; it was given {described(rollout)}")
    found = {name: getattr(rollout, name) for name in names} if rollout is not None else arrays
    for name in names:
        if found[name] is None:
            raise ValueError(f"{caller} needs rollout.{name}, which is None: the model has no critic")
    ordered = [jnp.asarray(found[name]) for name in names]
    reward = ordered[names.index("reward")]
    for name, x in zip(names, ordered, strict=True):
        check_shape(caller, name, x, reward.shape, of="reward")
        if name in ("terminated", "truncated") and x.dtype != jnp.bool_:
            raise TypeError(f"{caller}: {name} must be boolean; its dtype is {x.dtype}")
    if reward.ndim < 1 or reward.shape[0] < 1:
        raise ValueError(
            f"{caller}: reward must have a leading time axis [T, ...], T >= 1; its shape is {reward.shape}"
        )
    dtype = jnp.result_type(*(accumulate(x) for x in ordered if x.dtype != jnp.bool_))
    return [jax.lax.stop_gradient(x if x.dtype == jnp.bool_ else x.astype(dtype)) for x in ordered]


def discounts(caller: str, reward: Array, **numbers: ArrayLike) -> list[ArrayLike]:
    """Discounts and the like that leave the dtype of the reward `[T, ...]` what it is, so that a loop over time can
    carry it. Each is one number or one for each environment `[...]`; raises ValueError naming one that is neither.

    >>> given = discounts("gae", jnp.ones(2), gamma=0.9, lambda_=np.float64(1))
    >>> [(jnp.ones(2) * number).dtype.name for number in given]
    ['float32', 'float32']
    """
    plain = (float, int, np.generic)  # of which a Python number leaves every dtype alone; np.float64 does not
    for name, number in numbers.items():
        if np.shape(number) not in ((), reward.shape[1:]):
            each = f" or one for each environment, {reward.shape[1:]}" if reward.ndim > 1 else ""
            raise ValueError(f"{caller}: {name} must be a number{each}; it has shape {np.shape(number)}")
    return [float(n) if isinstance(n, plain) else jnp.asarray(n).astype(reward.dtype) for n in numbers.values()]


def gae(
    rollout: Rollout | None = None, /, *, gamma: Unit = 0.99, lambda_: Unit = 0.95, **arrays: Array
) -> tuple[Array, Array]:
    """Generalized advantage estimation, exact at time limits.

        δ_t = r_t + γ (1 - terminated_t) V(s'_t) - V(s_t)
        A_t = δ_t + γ λ (1 - terminated_t)(1 - truncated_t) A_{t+1},      target_t = A_t + V(s_t)

    `next_value` is the value of the observation *after* step t and before any reset, so a truncated step bootstraps
    from its true final observation while a terminated one does not, and no estimate leaks across an episode's end.
    The last row of the window bootstraps from `next_value` like any other.

    The mask is not read: what is masked out, such as the context of an answer, happened. A step that broke must be
    `truncated`, as `unroll` leaves it, or what it has instead of numbers goes back to where its episode began.

    Args:
      rollout: with `reward, value, next_value, terminated, truncated`, each `[T, ...]`.
      gamma: discount, in [0, 1], or one for each environment, `[...]`. May be traced.
      lambda_: in [0, 1], likewise; 0 gives one-step TD errors, 1 gives Monte-Carlo returns minus the value. May be
        traced.
      arrays: those five fields by keyword, instead of a rollout. Where `terminated` and `truncated` are both True the
        step counts as terminated.

    Returns:
      `(advantage, target)`, each `[T, ...]`, constants.

    Raises:
      ValueError: a field is missing, of another shape than the reward, or without a time axis; gamma or lambda_ is
        outside [0, 1] (where it is concrete), or neither a number nor one for each environment. TypeError: a flag is
        not boolean, or the arrays given are not those five.

    Differs from the paper (and from rlax, brax and CleanRL): those take one value array and one `done` flag, which
    cannot express a time limit; brax also sets the advantage of a truncated step to 0.

    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation",
    equation 16.

    >>> no, zero = jnp.zeros(3, bool), jnp.zeros(3)
    >>> advantage, target = gae(reward=jnp.ones(3), value=zero, next_value=zero, terminated=no, truncated=no,
    ...                         gamma=0.5, lambda_=1.0)
    >>> target.tolist()
    [1.75, 1.5, 1.0]
    """
    check_entries("gae", Unit, gamma=gamma, lambda_=lambda_)
    names = ("reward", "value", "next_value", "terminated", "truncated")
    reward, value, next_value, terminated, truncated = episode_fields("gae", names, rollout, arrays)
    gamma, lambda_ = discounts("gae", reward, gamma=gamma, lambda_=lambda_)
    delta = reward + gamma * jnp.where(terminated, 0, next_value) - value

    def backward(advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, last = step  # selected, not multiplied by 0: a NaN of a later episode stays in that episode
        advantage = delta + jnp.where(last, 0, gamma * lambda_ * advantage)
        return advantage, advantage

    _, advantage = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, terminated | truncated), reverse=True)
    return advantage, advantage + value


def discounted_returns(rollout: Rollout | None = None, /, *, gamma: Unit = 0.99, **arrays: Array) -> Array:
    """Discounted reward-to-go within each episode, bootstrapped where the episode was cut short.

        G_t = r_t + γ { 0 if terminated_t;  V(s'_t) if truncated_t or t is the last row;  G_{t+1} otherwise }

    With `next_value` zero this is the plain Monte-Carlo return of what was seen, which is short of the truth for an
    episode that the window or a time limit cut.

    Args:
      rollout: with `reward, next_value, terminated, truncated`, each `[T, ...]`.
      gamma: discount, in [0, 1], or one for each environment, `[...]`. May be traced.
      arrays: those four fields by keyword, instead of a rollout.

    Returns:
      Returns `[T, ...]`, a constant.

    Raises as `gae`. Source: Williams 1992 (REINFORCE uses the return of the whole episode; reward-to-go has the same
    expectation of the gradient and less variance).

    >>> no = jnp.zeros(3, bool)
    >>> discounted_returns(reward=jnp.ones(3), next_value=jnp.zeros(3), terminated=no, truncated=no, gamma=0.5).tolist()
    [1.75, 1.5, 1.0]
    """
    check_entries("discounted_returns", Unit, gamma=gamma)
    names = ("reward", "next_value", "terminated", "truncated")
    reward, next_value, terminated, truncated = episode_fields("discounted_returns", names, rollout, arrays)
    (gamma,) = discounts("discounted_returns", reward, gamma=gamma)

    def backward(following: Array, step: tuple[Array, ...]) -> tuple[Array, Array]:
        reward, next_value, terminated, truncated = step
        following = reward + gamma * jnp.where(terminated, 0, jnp.where(truncated, next_value, following))
        return following, following

    return jax.lax.scan(backward, next_value[-1], (reward, next_value, terminated, truncated), reverse=True)[1]


def lambda_returns(
    rollout: Rollout | None = None, /, *, gamma: Unit = 0.99, lambda_: Unit = 0.95, **arrays: Array
) -> Array:
    """λ-returns: the mixture of all n-step returns, with weights that fall off as λⁿ⁻¹.

        G_t = r_t + γ { 0 if terminated_t;  V(s'_t) if truncated_t or t is the last row;
                        (1-λ) V(s'_t) + λ G_{t+1} otherwise }

    λ = 0 looks one step ahead, λ = 1 gives `discounted_returns`. Where the value after a step is that of the next
    observation, this is the target of `gae`; it differs in needing no value of the observation itself.

    Args:
      rollout: with `reward, next_value, terminated, truncated`, each `[T, ...]`.
      gamma: discount, in [0, 1], or one for each environment, `[...]`. May be traced.
      lambda_: in [0, 1]. May be traced.
      arrays: those four fields by keyword, instead of a rollout.

    Returns:
      Returns `[T, ...]`, a constant.

    Raises as `gae`. Differs from the book: it has no time limits. Source: Sutton & Barto 2018, "Reinforcement
    learning", section 12.1; the recursion is its exercise 12.1.

    >>> no = jnp.zeros(3, bool)
    >>> lambda_returns(reward=jnp.ones(3), next_value=jnp.zeros(3), terminated=no, truncated=no, gamma=1.0,
    ...                lambda_=0.5).tolist()
    [1.75, 1.5, 1.0]
    """
    check_entries("lambda_returns", Unit, gamma=gamma, lambda_=lambda_)
    names = ("reward", "next_value", "terminated", "truncated")
    reward, next_value, terminated, truncated = episode_fields("lambda_returns", names, rollout, arrays)
    gamma, lambda_ = discounts("lambda_returns", reward, gamma=gamma, lambda_=lambda_)

    def backward(following: Array, step: tuple[Array, ...]) -> tuple[Array, Array]:
        reward, next_value, terminated, truncated = step
        goes_on = next_value + lambda_ * (following - next_value)
        following = reward + gamma * jnp.where(terminated, 0, jnp.where(truncated, next_value, goes_on))
        return following, following

    return jax.lax.scan(backward, next_value[-1], (reward, next_value, terminated, truncated), reverse=True)[1]


def n_step_returns(rollout: Rollout | None = None, /, *, n: Count = 5, gamma: Unit = 0.99, **arrays: Array) -> Array:
    """Returns that look n steps ahead, and no further than the episode and the window go.

        G_t = Σ_{k<m} γᵏ r_{t+k} + γᵐ { 0 if terminated_{t+m-1};  V(s'_{t+m-1}) otherwise }

    m is n, or less where step t+m-1 ends the episode or the window. n = 1 is the one-step target, and n >= T gives
    `discounted_returns`. Costs n passes over the window.

    Args:
      rollout: with `reward, next_value, terminated, truncated`, each `[T, ...]`.
      n: how many rewards are taken, at least 1. May be traced.
      gamma: discount, in [0, 1], or one for each environment, `[...]`. May be traced.
      arrays: those four fields by keyword, instead of a rollout.

    Returns:
      Returns `[T, ...]`, a constant.

    Raises as `gae`, and ValueError if n is less than 1 (where it is concrete). Differs from the paper: A3C takes
    windows of n steps, of which only the first decision looks n steps ahead; here every decision does.
    Source: Watkins 1989; Mnih et al. 2016 (A3C), whose n is the default.

    >>> no = jnp.zeros(3, bool)
    >>> n_step_returns(reward=jnp.ones(3), next_value=jnp.full(3, 8.0), terminated=no, truncated=no, n=2,
    ...                gamma=0.5).tolist()
    [3.5, 3.5, 5.0]
    """
    check_entries("n_step_returns", Unit, gamma=gamma)
    check_range("n_step_returns", Count, n=n)
    names = ("reward", "next_value", "terminated", "truncated")
    reward, next_value, terminated, truncated = episode_fields("n_step_returns", names, rollout, arrays)
    (gamma,) = discounts("n_step_returns", reward, gamma=gamma)

    def one_further(_: Array, nearer: Array) -> Array:
        """The return over one step more, from those of the step after."""
        following = jnp.concatenate([nearer[1:], next_value[-1:]])
        return reward + gamma * jnp.where(terminated, 0, jnp.where(truncated, next_value, following))

    return jax.lax.fori_loop(1, n, one_further, reward + gamma * jnp.where(terminated, 0, next_value))
