"""The fields of a record in its docstring, where `help` shows them."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from typing import TypeVar

T = TypeVar("T", bound=type)


def with_fields(cls: T) -> T:
    """The same class, whose docstring also has its fields, each with the string that stands below it, or its type.

    An editor shows that string beside the field; `help(cls)` shows docstrings alone. Where there is no source, as in
    a frozen program, the docstring stays what it was.

    >>> from polopt_jax import Batch
    >>> next(line for line in Batch.__doc__.splitlines() if "action:" in line)
    '  action: Actions or next tokens, `[...]` or `[..., A]`.'
    """
    said = _strings_below(cls.__module__).get(cls.__qualname__, {})
    if said:
        fields = (f"  {name}: {' '.join(text.split())}" for name, text in said.items())
        cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Fields:", *fields])
    return cls


@functools.cache
def _strings_below(module: str) -> dict[str, dict[str, str]]:
    """For each class of a module, its annotated fields and the string below each."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        return {}
    return {node.name: _fields(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _fields(node: ast.ClassDef) -> dict[str, str]:
    """What is said of each field: the string below it, or where there is none its type."""
    found = {}
    for field, below in zip(node.body, [*node.body[1:], None], strict=True):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = text
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind), _:
                found[name] = f"`{ast.unparse(kind)}`"
    return found
