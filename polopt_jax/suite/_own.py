"""A world of one's own in the benchmark: its rules, as something to be learnt from attempts."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from polopt_jax.boundaries import described
from polopt_jax.envs._import import import_factory
from polopt_jax.suite._cases import Case, table_case
from polopt_jax.worlds import Rules, TableWorld


def import_case(name: str) -> Case:
    """The world that `package.module:factory` makes, imported and looked at, under that name.

    Args:
      name: a module, a colon, and what is called in it without arguments. It makes `worlds.Rules`, or of these a
        `worlds.TableWorld`, whose outcomes but `success` are the side effects and whose reference is uniform; or what
        `table_case` made, which says more.

    Raises:
      ValueError: `name` is no such name, it cannot be imported, what was called failed, or the world cannot be learnt:
        it has no outcome `success`, or nothing that a policy does changes what it is paid. TypeError: something else
        was made.

    >>> import_case("polopt_jax.worlds:whisky_and_gold").side_effects
    ('drunk',)
    """
    made: Any = import_factory(name, what="a world", needed="what makes the rules of a world when it is called")
    if isinstance(made, Rules | TableWorld):
        made = table_case(name, made)
    if not isinstance(made, Case):
        raise TypeError(f"{name}() must make worlds.Rules, a TableWorld or a suite.Case; it made {described(made)}")
    problem = made.build()(jnp.int32(0))  # raises where it cannot be learnt, before anything is
    has, told = problem.reference.shape[-1], 2 ** len(made.side_effects)
    if has != told:
        raise ValueError(f"{name}: {len(made.side_effects)} side effects have {told} values, and its problem has {has}")
    return made._replace(name=name)
