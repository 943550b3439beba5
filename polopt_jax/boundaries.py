"""What a person plugs in - a model, a term, a phase, a divergence - is looked at where it is first called.

All of it at trace time: shapes and types, no values. A message names the function that was called, what it was given
and what it needs.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.types import Array, Metrics, Rollout


def described(x: Any) -> str:
    """What something is, in a few words.

    >>> described(jnp.zeros((3, 2))), described(1.0), described(("a", 1)), described(None), described({"b": 2})
    ('float32[3, 2]', 'a float', 'a tuple of 2', 'None', 'a dict')
    """
    if isinstance(x, jax.Array):
        return f"{x.dtype}{list(x.shape)}"
    if x is None:
        return "None"
    if isinstance(x, tuple) and not hasattr(x, "_fields"):
        return f"a tuple of {len(x)}"
    if inspect.isfunction(x):
        return f"the function {x.__name__}"
    return f"a {type(x).__name__}"


def check_outputs(caller: str, outputs: Any) -> Any:
    """The same outputs. Raises TypeError if a model returned something else: logits, a tuple, a distribution alone."""
    if not (hasattr(outputs, "policy") and hasattr(outputs, "value")):
        raise TypeError(
            f"{caller}: a model must return po.Outputs(policy=..., value=...), the policy a distribution such as "
            f"po.Categorical(logits=...); it returned {described(outputs)}"
        )
    return outputs


def check_batch(caller: str, batch: Any) -> None:
    """Raises TypeError for a rollout that is no batch yet, and for what has no observations."""
    if isinstance(batch, Rollout) or not hasattr(batch, "obs"):
        hint = "; po.to_batch makes one of it" if isinstance(batch, Rollout) else ""
        raise TypeError(f"{caller}: batch must be a po.Batch; it is {described(batch)}{hint}")
    for name, field in vars(batch).items():
        if isinstance(field, list) and name not in ("obs", "outcome"):
            raise TypeError(f"{caller}: batch.{name} must be an array; it is {described(field)}")


def check_takes(caller: str, what: str, function: Any, *names: str, by_name: Sequence[str] = ()) -> None:
    """Raises TypeError unless `function` can be called with so many arguments, and further ones by their names.

    A maker of terms that was not called (`po.ppo` for `po.ppo()`) takes none.
    """
    needs = f"{caller}: {what} must be a function of ({', '.join(names)})"
    if not callable(function):
        raise TypeError(f"{needs}; it is {described(function)}")
    try:
        inspect.signature(function).bind(*names, **dict.fromkeys(by_name))
    except ValueError:  # built in, without a signature
        return
    except TypeError:
        called = getattr(function, "__name__", described(function))
        hint = f"; call it: {called}(...)" if _makes(function) else ""
        raise TypeError(f"{needs}, and {called}{inspect.signature(function)} is not{hint}") from None


def _makes(function: Any) -> bool:
    """Whether a function takes nothing by position, as what makes terms and divergences does."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    return all(kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD) for kind in kinds)


def check_loss(caller: str, returned: Any) -> tuple[Array, Metrics]:
    """`(loss, metrics)`, a scalar and a dict. Raises TypeError or ValueError for anything else."""
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise TypeError(f"{caller} must return (loss, metrics), a scalar and a dict; it returned {described(returned)}")
    loss, metrics = returned
    if isinstance(loss, dict):
        raise TypeError(f"{caller} must return (loss, metrics); its loss is a dict: are the two swapped?")
    if not isinstance(metrics, dict):
        raise TypeError(f"{caller} must return (loss, metrics), metrics a dict; they are {described(metrics)}")
    check_scalar(f"{caller}: the loss", loss)
    return cast(Array, loss), metrics


def check_scalar(what: str, x: Any) -> Array:
    """The same number. Raises ValueError if it is an array of some shape: one that was not reduced."""
    if np.ndim(x):
        raise ValueError(
            f"{what} must be a scalar; it is {described(jnp.asarray(x))}: reduce it, with po.token_mean(x, batch) say"
        )
    return x


def check_pair(caller: str, name: str, pair: Any, needs: str) -> tuple[Any, Any]:
    """The two of a pair. Raises TypeError if it is none; `needs` says of what."""
    if not (isinstance(pair, tuple | list) and len(pair) == 2):
        raise TypeError(f"{caller}: {name} must be {needs}; it is {described(pair)}")
    first, second = pair
    return first, second


def check_keys(caller: str, keys: Any) -> None:
    """Raises TypeError unless these are keys of random numbers `[R]`, typed ones or raw ones `[R, 2]`."""
    typed = jnp.issubdtype(getattr(keys, "dtype", float), jax.dtypes.prng_key)
    raw = getattr(keys, "dtype", None) == jnp.uint32
    if not (typed or raw) or np.ndim(keys) != (1 if typed else 2):
        needs = "keys must be one for each seed, [R]: jax.random.split(key, num=R)"
        raise TypeError(f"{caller}: {needs}; it is {described(keys)}")


def check_act(caller: str, act: Any) -> None:
    """Raises TypeError unless `act` is a function of observations: no network, and no model without its parameters."""
    try:
        check_takes(caller, "act", act, "obs")
    except TypeError as error:
        model = "model" if callable(act) else "network.apply" if hasattr(act, "apply") else ""
        hint = f"; bind its parameters: lambda obs: {model}(params, obs)" if model else ""
        if not callable(act) and hasattr(act, "collect"):
            hint = "; algorithm.act(state) is one"
        raise TypeError(f"{error}{hint}") from None


def check_bounded(caller: str, name: str, pairs: Any, needs: str) -> list[tuple[Any, Any]]:
    """Pairs of a function and the bound that it is held to; `needs` says what they are called. Raises TypeError."""
    if not isinstance(pairs, list | tuple):
        raise TypeError(f"{caller}: {name} must be a list of pairs {needs}; it is {described(pairs)}")
    for number, pair in enumerate(pairs):
        function, bound = check_pair(caller, f"{name}[{number}]", pair, f"a pair {needs}")
        if callable(bound) or not callable(function):
            place, wrong = ("first", function) if not callable(function) else ("second", bound)
            order = ": they are swapped" if callable(bound) and not callable(function) else ""
            raise TypeError(f"{caller}: {name}[{number}] must be {needs}; its {place} is {described(wrong)}{order}")
    return list(pairs)


def check_learnable(caller: str, params: Any) -> None:
    """Raises ValueError where there is no array to learn, TypeError naming a leaf that is no array of floats."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"{caller}: params must have an array to learn; they are {described(params)}")
    for path, leaf in leaves:
        if not jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.inexact):
            place = f"params{jax.tree_util.keystr(path)}"
            raise TypeError(f"{caller}: {place} must be an array of floats, to be learnt; it is {described(leaf)}")
