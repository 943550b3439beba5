"""Names that are not quite right, and the ones that were probably meant."""

import difflib
from collections.abc import Sequence

from polopt_jax.cli._errors import UsageError


def nearest(name: str, known: Sequence[str]) -> str:
    """The entry of `known` most like `name`, capitals apart.

    >>> nearest("GPRO", ("ppo", "dpo", "grpo"))
    'grpo'
    """
    return difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]


def choose(kind: str, name: str, known: Sequence[str]) -> str:
    """`name` as `known` has it (hyphens are as good as underscores); raises UsageError with the nearest one."""
    if name in known:
        return name
    plain = {candidate.replace("-", "_"): candidate for candidate in known}
    if (found := plain.get(name.lower().replace("-", "_"))) is not None:
        return found
    raise UsageError(f"unknown {kind} {name!r}; did you mean {nearest(name, known)!r}? Known: {', '.join(known)}")


def flag(name: str) -> str:
    """The flag that sets a parameter.

    >>> flag("lambda_"), flag("clip_eps")
    ('--lambda', '--clip-eps')
    """
    return "--" + name.strip("_").replace("_", "-")
