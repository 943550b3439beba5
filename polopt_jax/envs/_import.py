"""What is one's own, by its name: an environment by that of what makes it."""

from __future__ import annotations

import importlib
import pkgutil
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from polopt_jax.envs._check import check_env
from polopt_jax.envs._protocol import Environment

MAKES_ONE = "what makes an environment when it is called"
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def import_env(name: str) -> Environment:
    """The environment that `package.module:factory` makes, imported and looked at (`check_env`).

    Args:
      name: a module, a colon, and what is called in it without arguments: a function or a class.

    Raises:
      ValueError: `name` is no such name, the module cannot be imported, has no such thing or it is not callable, or
        what was called, or what it made, failed; the message says in which line.
      TypeError, ValueError: what it made is no environment, as `check_env`.

    >>> import_env("polopt_jax.envs:TimeLimit").action_space
    Discrete(num=2)
    >>> import_env("polopt_jax.envs:Timelimit")
    Traceback (most recent call last):
    ValueError: polopt_jax.envs:Timelimit cannot be imported: module 'polopt_jax.envs' has no attribute 'Timelimit'
    """
    return checked_env(name, import_factory(name, what="an environment", needed=MAKES_ONE))


def checked_env(name: str, made: Any) -> Environment:
    """What `name()` made, if it is an environment; raises as `import_env`."""
    try:
        check_env(made)
    except jax.errors.ConcretizationTypeError as error:
        hint = "what depends on states or actions is not known when it is compiled: jnp.where for if, jax.lax for loops"
        raise ValueError(f"{name}() made what cannot be compiled{_where(error)}: {hint}") from error
    except (TypeError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{name}() made what fails: {told(error)}") from error
    return made


def import_factory(name: str, *, what: str, needed: str) -> Any:
    """What comes of a call of `package.module:factory`; raises as `import_callable`, and where the call fails."""
    factory = import_callable(name, what=what, called="factory", needed=needed)
    try:
        return factory()
    except Exception as error:
        raise ValueError(f"{name}() failed: {told(error)}") from error


def import_callable(name: str, *, what: str, called: str, needed: str) -> Callable[..., Any]:
    """What `package.module:name` names, and can be called; `what` it is to be, and the rest, are words for errors.

    Raises ValueError if `name` is no such name, the module cannot be imported, has no such thing or it is not callable.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} of one's own is named package.module:{called}; {name!r} is not")
    try:
        found = pkgutil.resolve_name(name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name} cannot be imported: {told(error)}") from error
    if not callable(found):
        raise ValueError(f"{name} must be {needed}; it is {found!r}")
    return found


def told(error: BaseException) -> str:
    """What went wrong, and where in the code that was called, if it came so far."""
    said = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
    return said + _where(error)


def _where(error: BaseException) -> str:
    """The last line of the code that was called, if it came so far."""
    called = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_called(frame.filename)]
    return f" ({Path(called[-1].filename).name}, line {called[-1].lineno})" if called else ""


def _is_called(filename: str) -> bool:
    own = (Path(pkgutil.__file__), Path(importlib.__file__))
    path = Path(filename)
    return not filename.startswith("<") and path not in own and Path(__file__).parents[1] not in path.parents
