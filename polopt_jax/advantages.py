"""Returns and advantage estimators: what the objectives are told a decision was worth.

Two families. Over time, on time-major arrays `[T, ...]`, with `terminated` and `truncated` apart: only a
termination means that no reward follows; at a time limit the value of the *true final observation* stands in for
what would have followed. Over a group, on rewards `[..., G]` of G attempts at the same prompt.

None has a gradient: estimates are data, and everything returned is constant with respect to the inputs.
"""

import jax
import jax.numpy as jnp

from polopt_jax.masking import accumulate, check_shape
from polopt_jax.types import Array, ArrayLike


def _episode_arrays(caller: str, reward: Array, **others: Array) -> tuple[Array, ...]:
    """The arguments as constants in at least float32, checked to share the shape of `reward`."""
    for name, x in others.items():
        check_shape(caller, name, x, jnp.shape(reward), of="reward")
    for name in ("terminated", "truncated"):
        if others[name].dtype != jnp.bool_:
            raise TypeError(f"{caller}: {name} must be boolean; its dtype is {others[name].dtype}")
    if jnp.ndim(reward) < 1:
        raise ValueError(f"{caller}: reward must have a leading time axis [T, ...]; it is a scalar")
    arrays = (reward, *others.values())
    return tuple(jax.lax.stop_gradient(x if x.dtype == jnp.bool_ else accumulate(x)) for x in arrays)


def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    *,
    gamma: ArrayLike = 0.99,
    lambda_: ArrayLike = 0.95,
) -> tuple[Array, Array]:
    """Generalized advantage estimation, exact at time limits.

        δ_t = r_t + γ (1 - terminated_t) V(s'_t) - V(s_t)
        A_t = δ_t + γ λ (1 - terminated_t)(1 - truncated_t) A_{t+1},      target_t = A_t + V(s_t)

    `next_value` is the value of the observation *after* step t and before any reset, so a truncated step bootstraps
    from its true final observation while a terminated one does not, and no estimate leaks across an episode's end.
    The last row of the window bootstraps from `next_value` like any other.

    Differs from the paper (and from rlax, brax and CleanRL): those take one value array and one `done` flag, which
    cannot express a time limit; brax also sets the advantage of a truncated step to 0.

    Args:
      reward, value, next_value: `[T, ...]` floats.
      terminated, truncated: `[T, ...]` bool. Where both are True the step counts as terminated.
      gamma: discount. lambda_: 0 gives one-step TD errors, 1 gives Monte-Carlo returns minus the value.

    Returns:
      `(advantage, target)`, each `[T, ...]`, constants.

    Raises:
      ValueError: shapes differ. TypeError: a flag is not boolean.

    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation",
    equation 16.

    >>> no = jnp.zeros(3, bool)
    >>> advantage, target = gae(jnp.ones(3), jnp.zeros(3), jnp.zeros(3), no, no, gamma=0.5, lambda_=1.0)
    >>> target.tolist()
    [1.75, 1.5, 1.0]
    """
    reward, value, next_value, terminated, truncated = _episode_arrays(
        "gae", reward, value=value, next_value=next_value, terminated=terminated, truncated=truncated
    )
    delta = reward + gamma * jnp.where(terminated, 0, next_value) - value

    def backward(advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, last = step  # selected, not multiplied by 0: a NaN of a later episode stays in that episode
        advantage = delta + jnp.where(last, 0, gamma * lambda_ * advantage)
        return advantage, advantage

    _, advantage = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, terminated | truncated), reverse=True)
    return advantage, advantage + value


def discounted_returns(
    reward: Array, next_value: Array, terminated: Array, truncated: Array, *, gamma: ArrayLike = 0.99
) -> Array:
    """Discounted reward-to-go within each episode, bootstrapped where the episode was cut short.

        G_t = r_t + γ { 0 if terminated_t;  V(s'_t) if truncated_t or t is the last row;  G_{t+1} otherwise }

    With `next_value` zero this is the plain Monte-Carlo return of what was seen, which is short of the truth for an
    episode that the window or a time limit cut. All arrays `[T, ...]`; returns `[T, ...]`, a constant.

    Raises as `gae`. Source: Williams 1992 (REINFORCE uses the return of the whole episode; reward-to-go has the same
    expectation of the gradient and less variance).

    >>> no = jnp.zeros(3, bool)
    >>> discounted_returns(jnp.ones(3), jnp.zeros(3), no, no, gamma=0.5).tolist()
    [1.75, 1.5, 1.0]
    """
    reward, next_value, terminated, truncated = _episode_arrays(
        "discounted_returns", reward, next_value=next_value, terminated=terminated, truncated=truncated
    )

    def backward(following: Array, step: tuple[Array, ...]) -> tuple[Array, Array]:
        reward, next_value, terminated, truncated = step
        following = reward + gamma * jnp.where(terminated, 0, jnp.where(truncated, next_value, following))
        return following, following

    return jax.lax.scan(backward, next_value[-1], (reward, next_value, terminated, truncated), reverse=True)[1]


def _centred(caller: str, reward: Array) -> tuple[Array, Array]:
    """`reward` minus its group's mean, and whether the group's rewards differ at all (`[..., 1]`).

    The first reward is subtracted before the mean is taken, so that a constant group gives exact zeros: the float
    mean of G equal numbers is often not that number, and a division by a tiny std would amplify the residue.
    """
    if jnp.ndim(reward) < 1 or reward.shape[-1] < 1:
        raise ValueError(f"{caller}: reward must be [..., G] with G >= 1; it has shape {jnp.shape(reward)}")
    reward = jax.lax.stop_gradient(accumulate(reward))
    shifted = reward - reward[..., :1]
    return shifted - jnp.mean(shifted, axis=-1, keepdims=True), (shifted != 0).any(-1, keepdims=True)


def group_relative(reward: Array, *, eps: ArrayLike = 1e-6, ddof: int = 1) -> Array:
    """GRPO's advantage: each reward relative to the others of its group.

        A_i = (R_i - mean_j R_j) / (std_j R_j + eps)

    `reward` is `[..., G]`, one number per attempt at the same prompt; so is the result. `ddof` 1 is the sample
    standard deviation (TRL, Tunix); 0 is numpy's. A group whose rewards are all equal, and a group of one, gives
    exactly 0. A NaN reward makes its own group NaN and no other.

    Differs from the paper: eps and ddof are stated (the paper has neither). Raises `ValueError` unless reward has a
    group axis. Source: Shao et al. 2024, DeepSeekMath, section 4.1.2. `group_centred` leaves the division out.

    >>> group_relative(jnp.array([0.0, 1.0]), eps=0.0).tolist()
    [-0.7071067690849304, 0.7071067690849304]
    """
    centred, differ = _centred("group_relative", reward)
    degrees = max(reward.shape[-1] - ddof, 1)
    variance = jnp.sum(centred**2, axis=-1, keepdims=True) / degrees
    return jnp.where(differ, centred / (jnp.sqrt(jnp.where(differ, variance, 1)) + eps), 0)


def group_centred(reward: Array) -> Array:
    """A_i = R_i - mean_j R_j on rewards `[..., G]`: GRPO's advantage without the division (Dr.GRPO).

    The mean includes the attempt itself, which shortens the expected gradient by (G-1)/G; `leave_one_out` does not.
    Source: Liu et al. 2025, "Understanding R1-Zero-like training".

    >>> group_centred(jnp.array([0.0, 1.0])).tolist()
    [-0.5, 0.5]
    """
    return _centred("group_centred", reward)[0]


def leave_one_out(reward: Array) -> Array:
    """RLOO's advantage on rewards `[..., G]`: the baseline is the mean of the *other* attempts.

        A_i = R_i - mean_{j≠i} R_j = G/(G-1) (R_i - mean_j R_j)

    Unbiased, as no attempt is in its own baseline. A group of one has no other attempt: exactly 0.
    Raises `ValueError` unless reward has a group axis. Source: Kool et al. 2019; Ahmadian et al. 2024.

    >>> leave_one_out(jnp.array([0.0, 1.0, 2.0])).tolist()
    [-1.5, 0.0, 1.5]
    """
    size = reward.shape[-1] if jnp.ndim(reward) else 0
    return _centred("leave_one_out", reward)[0] * (size / max(size - 1, 1))
