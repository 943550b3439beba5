"""Reads the command line, runs the command, and turns what goes wrong into one line and an exit code."""

import contextlib
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence

import tyro

from polopt_jax import __version__
from polopt_jax.cli._errors import CommandError, UsageError, one_line
from polopt_jax.cli._names import nearest
from polopt_jax.cli._options import Compare, Envs, Train
from polopt_jax.cli._plan import plan_compare, plan_train
from polopt_jax.cli._run_directory import check_path

COMMANDS: dict[str, type[Train] | type[Compare] | type[Envs]] = {"train": Train, "compare": Compare, "envs": Envs}
HELP = """\
Policy optimization: REINFORCE, actor-critic, NPG, TRPO, PPO, DPO and GRPO.

usage: polopt COMMAND [OPTIONS]

  polopt compare                      all of them: one table, curves, a report
  polopt train ALGORITHM --env NAME   one of them, with checkpoints
  polopt envs                         the environments
  polopt COMMAND --help               the options of a command
  polopt --version

examples:

  polopt compare --budget 0.1
  polopt train ppo --env ant --num-seeds 3
  polopt train trpo --env hopper --radius 0.02 --out runs/wide
  polopt train trpo --env hopper --radius 0.02 --out runs/wide --resume
  polopt train grpo --env skip_the_test --json

Results go to stdout, progress to stderr, files to runs/. Exit codes: 0 done,
2 wrong input, 3 no longer finite, 5 checkpoint unusable, 6 a file could not be
read or written, 130 or 143 interrupted by SIGINT or SIGTERM, and saved.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command `polopt`; returns its exit code. `argv` is the command line without the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read our output has gone
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 6)


def _fail(message: str, exit_code: int) -> int:
    print(f"polopt: {'error: ' if exit_code < 128 else ''}{one_line(message)}", file=sys.stderr, flush=True)
    return exit_code


def _run(arguments: list[str]) -> int:
    options = parse(arguments)
    if options is None:
        return 0
    if isinstance(options, Envs):
        from polopt_jax.cli._envs import envs

        return envs()
    if options.out is not None:
        check_path(options.out)
    if isinstance(options, Train):
        plan = plan_train(options)
        from polopt_jax.cli._train import train

        return train(options, plan, arguments)
    plans = plan_compare(options)
    from polopt_jax.cli._compare import compare

    return compare(options, plans, arguments)


def parse(arguments: list[str]) -> Train | Compare | Envs | None:
    """The options of a command line; None if help or the version was asked for and given. Raises UsageError."""
    first, *rest = arguments or ["--help"]
    if first in ("-h", "--help", "help"):
        print(HELP, end="")
        return None
    if first == "--version":
        print(f"polopt {__version__}")
        return None
    if first not in COMMANDS:
        near = nearest(first, tuple(COMMANDS))
        raise UsageError(f"unknown command {first!r}; did you mean {near!r}? Known: {', '.join(COMMANDS)}")
    said, complaint = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaint):
            options = tyro.conf.OmitArgPrefixes[COMMANDS[first]]
            return tyro.cli(options, prog=f"polopt {first}", args=rest)
    except SystemExit as exit_:
        if exit_.code:
            raise UsageError(f"{explain(complaint.getvalue())} (polopt {first} --help)") from None
        print(_wrapped(said.getvalue()))
        return None


def _wrapped(text: str) -> str:
    """Help whose paragraphs fit the terminal, as tyro's boxes already do."""
    width = min(shutil.get_terminal_size().columns, 100)
    lines = (line if line.startswith(("╭", "│", "╰")) else textwrap.fill(line, width) for line in text.splitlines())
    return "\n".join(lines).strip()


def explain(complaint: str) -> str:
    """What tyro says over several lines, in a box or under a title, in one.

    >>> explain(" Value error\\n -----\\n  Error parsing --steps: no\\n -----\\n  For full helptext, see x")
    'Error parsing --steps: no'
    """
    boxed = "╭" in complaint
    lines = [line.strip("│").rstrip() for line in complaint.splitlines() if not line.startswith(("╭", "╰"))]
    parts = re.split(r"[─-]{3,}", "\n".join(lines))[0 if boxed else 1 :]
    said = " ".join(parts[0].split())
    if said.startswith("Missing from"):
        known = re.findall(r"^ +(--[a-z-]+ [A-Z]+|[A-Z]{3,})", parts[0], re.MULTILINE)
        return f"missing: {', '.join(known)}"
    if said.startswith("Unrecognized options: "):
        hints = re.findall(r"^ +(--[a-z][a-z-]*)", "\n".join(parts[1:]), re.MULTILINE)
        return said.replace("Unrecognized", "unrecognized") + (f"; did you mean {hints[0]}?" if hints else "")
    return said
