"""The words between the user and the command: flags, names that are nearly right, and what ends it early."""

import difflib
from collections.abc import Sequence
from pathlib import Path

WRONG_INPUT, BROKEN_DOWN, UNUSABLE, FILE_FAILED = 2, 3, 5, 6
"""Exit codes. Broken down: the numbers of every seed; unusable: what a run would go on from."""


class CommandError(Exception):
    """The command cannot go on; `str(error)` says why, in one line."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(CommandError):
    """What was asked for makes no sense or is not possible. Nothing was started."""

    def __init__(self, message: str):
        super().__init__(message, WRONG_INPUT)


ELSEWHERE = {
    **dict.fromkeys(("--lr", "--step-size", "--actor-lr"), "--learning-rate"),
    **dict.fromkeys(("--timesteps", "--total-timesteps", "--num-timesteps", "--max-steps"), "--steps"),
    **dict.fromkeys(("--n-envs", "--nenvs", "--num-environments"), "--num-envs"),
    **dict.fromkeys(("--n-steps", "--nsteps", "--num-steps", "--unroll-length"), "--rollout-steps"),
    **dict.fromkeys(("--seeds", "--n-seeds"), "--num-seeds"),
    **dict.fromkeys(("--env-id", "--env-name", "--environment"), "--env"),
    **dict.fromkeys(("--clip-range", "--clip-coef", "--clip-ratio", "--clip", "--epsilon"), "--clip-eps"),
    **dict.fromkeys(("--ent-coef", "--entropy-coef", "--entropy-cost"), "--entropy-weight"),
    **dict.fromkeys(("--vf-coef", "--value-coef"), "--value-weight"),
    **dict.fromkeys(("--gae-lambda", "--lam"), "--lambda"),
    **dict.fromkeys(("--discount", "--discounting"), "--gamma"),
    **dict.fromkeys(("--n-epochs", "--update-epochs", "--epochs"), "--num-epochs"),
    **dict.fromkeys(("--target-kl", "--max-kl", "--delta"), "--radius"),
    **dict.fromkeys(("--kl-coef", "--kl-weight"), "--beta"),
    **dict.fromkeys(("--num-generations", "--group"), "--group-size"),
    **dict.fromkeys(("--output", "--output-dir", "--logdir", "--log-dir"), "--out"),
}
"""What other libraries call a flag, and what it is called here."""


def one_line(text: str) -> str:
    """`text` in one line, with nothing in it that a terminal would obey.

    >>> one_line("a\\n b\\x1b[31m")
    'a b\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


OWN = "; one of your own is package.module:factory"
"""Beside names that are known."""


def choose(kind: str, name: str, known: Sequence[str], own: str = "") -> str:
    """`name` as `known` has it, whatever its capitals and hyphens; raises UsageError with one that is like it, and with
    what else there may be of one's `own`."""
    plain = {candidate.lower().replace("-", "_"): candidate for candidate in known}
    if (found := plain.get(name.lower().replace("-", "_"))) is not None:
        return found
    near = difflib.get_close_matches(name.lower(), plain, n=1)
    meant = f"; did you mean {plain[near[0]]!r}?" if near else "."
    raise UsageError(f"unknown {kind} {name!r}{meant} Known: {', '.join(known)}{own}")


def choose_some(kind: str, names: Sequence[str], known: Sequence[str], own: str = "") -> tuple[str, ...]:
    """Those of `known` that are named, in its order, or all of them if none is; raises UsageError as `choose`.

    >>> choose_some("method", ["PPO", "reinforce"], ("reinforce", "trpo", "ppo"))
    ('reinforce', 'ppo')
    """
    chosen = {choose(kind, name, known, own) for name in names} or set(known)
    return tuple(name for name in known if name in chosen)


def with_out(words: Sequence[str], directory: Path) -> list[str]:
    """A command line that names its directory."""
    given = "--out" in [word.split("=")[0] for word in words]
    return [*words] if given else [*words, "--out", str(directory)]


def flag(name: str) -> str:
    """The flag that sets a parameter.

    >>> flag("lambda_"), flag("clip_eps")
    ('--lambda', '--clip-eps')
    """
    return "--" + name.strip("_").replace("_", "-")


def check_new(option: str, path: Path) -> None:
    """Raises UsageError unless `path`, which `option` names, can become a file that is not there yet."""
    if "\0" in str(path) or not path.name:
        raise UsageError(f"{option} needs the name of a file; it is {str(path)!r}")
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there already; name another file")
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent} to write {path.name} to")


def unique(names: list[str], flag_name: str) -> list[str]:
    """The same names; raises UsageError if the flag says one twice.

    >>> unique(["npg", "trpo"], "--algorithms")
    ['npg', 'trpo']
    """
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{flag_name} names {name} twice")
    return names
