"""Reads the command line, runs the command, and turns what goes wrong into one line and an exit code."""

import contextlib
import dataclasses
import inspect
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from polopt_jax import __version__, runs
from polopt_jax.checkpoint import CheckpointError
from polopt_jax.cli import _recipes
from polopt_jax.cli._cache import SWITCH, use_cache
from polopt_jax.cli._compare import compare
from polopt_jax.cli._config import compared, options_of, read_options
from polopt_jax.cli._envs import check_algorithm, show
from polopt_jax.cli._evaluate import evaluate
from polopt_jax.cli._hyperparameters import given, options_with, shown, train_options
from polopt_jax.cli._options import Compare, Envs, Evaluate, Outcomes, Play, Resume, ResumeCompare, Study, Train
from polopt_jax.cli._outcomes import outcomes
from polopt_jax.cli._plan import Plan, plan_compare, plan_train
from polopt_jax.cli._play import play
from polopt_jax.cli._presets import PRESETS
from polopt_jax.cli._progress import open_streams, say, silence
from polopt_jax.cli._study import study
from polopt_jax.cli._text_acting import sample
from polopt_jax.cli._text_options import Sample, TrainAnswers, TrainTexts
from polopt_jax.cli._text_plan import ALGORITHMS, about_texts, choose_objective, objectives_of, parameters_of
from polopt_jax.cli._text_train import train_texts
from polopt_jax.cli._train import train
from polopt_jax.cli._words import (
    ELSEWHERE,
    FILE_FAILED,
    UNUSABLE,
    WRONG_INPUT,
    CommandError,
    UsageError,
    choose,
    flag,
    nearest,
    one_line,
)

HELP = """\
Policy optimization, from REINFORCE to GRPO.

usage: polopt COMMAND [OPTIONS]

  polopt compare                      all of them: one table, curves, a report
  polopt train ALGORITHM --env NAME   one of them, with checkpoints
  polopt train ALGORITHM --help       its hyperparameters
  polopt train ALGORITHM --data FILE  texts of your own: sft, dpo, grpo
  polopt sample RUN --prompt TEXT     what a run on texts says
  polopt evaluate RUN                 what a run has learnt is worth
  polopt play RUN                     watch what it has learnt
  polopt envs                         the environments and worlds
  polopt envs NAME                    one of them; a world is drawn
  polopt outcomes                     what objectives do to side effects
  polopt study                        objective, initialisation or scale?
  polopt COMMAND --help               the options of a command
  polopt --version

examples:

  polopt compare --budget 0.1
  polopt train ppo --env ant --num-seeds 3
  polopt train trpo --env hopper --radius 0.02 --out runs/wide
  polopt train --out runs/wide --resume
  polopt train ppo --env my.module:Env --hidden 256,256 --eval-every 100000
  polopt train grpo --env skip_the_test --json
  polopt train sft --data texts.jsonl --out runs/start
  polopt train dpo --data prefs.jsonl --init runs/start --objective ipo
  polopt sample runs/start --prompt "Once upon" --num 3
  polopt evaluate runs/wide --episodes 200
  polopt play runs/wide --gif hopper.gif
  polopt outcomes --quick

Compiled programs are kept for the next run in the user's cache folder, or in
JAX_COMPILATION_CACHE_DIR; --no-cache, with any command, keeps none.

Results go to stdout, progress to stderr, files to runs/. Exit codes: 0 done,
2 wrong input, 3 no longer finite or unable to move, 5 checkpoint or log
unusable, 6 a file could not be read or written, 130 or 143 interrupted by
SIGINT or SIGTERM, and saved.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command `polopt`; returns its exit code. `argv` is the command line without the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_streams()
    if "" not in sys.path:
        sys.path.append("")  # the working directory, as `python -m` has it: an environment of one's own may be there
    try:
        return _run(arguments)
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except runs.RunError as error:
        return _fail(str(error), WRONG_INPUT)
    except CheckpointError as error:
        return _fail(str(error), UNUSABLE)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read our output has gone
        silence(sys.stdout)
        return 0
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), FILE_FAILED)


def _fail(message: str, exit_code: int) -> int:
    say(f"polopt: {'error: ' if exit_code < 128 else ''}{one_line(message)}")
    return exit_code


def _run(arguments: list[str]) -> int:
    first, *rest = [word for word in arguments if word != SWITCH] or ["--help"]
    if first in HELP_WORDS:
        print(HELP, end="")
        return 0
    if first == "--version":
        print(f"polopt {__version__}")
        return 0
    if first not in COMMANDS:
        near = nearest(first, tuple(COMMANDS))
        raise UsageError(f"unknown command {first!r}; did you mean {near!r}? Known: {', '.join(COMMANDS)}")
    return COMMANDS[first](rest, arguments)


def _train(words: list[str], arguments: list[str]) -> int:
    if words and words[0] in HELP_WORDS:
        _read(Train, "train ALGORITHM", ["--help"], _list_of_algorithms())
        return 0
    if "--resume" in words and words[0].startswith("-"):
        if (resumed := _read(Resume, "train --resume", words)) is None:
            return 0
        config = runs.read_config(runs.check_path(resumed.out))
        algorithm, said = options_of(config, resumed.out / runs.CONFIG)
        words = [*said, *words]
    else:
        algorithm, words = _with_config(words)
    if _learns_texts(algorithm, words):
        return _train_texts(algorithm, words, arguments)
    planned = _planned(algorithm, words)
    if planned is None:
        return 0
    options, plan = planned
    use_cache(arguments)
    return train(options, plan, arguments)


def _learns_texts(algorithm: str | None, words: list[str]) -> bool:
    """Whether a command line is about texts: it names a file of them, or an algorithm that knows nothing else."""
    return (algorithm or "").lower() == "sft" or _value_of("--data", words) is not None


def _train_texts(algorithm: str | None, words: list[str], arguments: list[str]) -> int:
    name = choose("algorithm", algorithm or "", ALGORITHMS)
    objective = choose_objective(name, _value_of("--objective", words))
    _check_text_flags(name, objective, words)
    known = parameters_of(name, objective)
    kind = TrainAnswers if name == "grpo" else TrainTexts
    wanted = options_with(kind, objective or name, known, {key: shown(entry.default) for key, entry in known.items()})
    options = _read(wanted, f"train {name} --data FILE", words, about_texts(name, objective))
    if options is None:
        return 0
    use_cache(arguments)
    return train_texts(name, options.run, given(known, options.hyperparameters), arguments)


def _check_text_flags(algorithm: str, objective: str | None, words: list[str]) -> None:
    """Raises UsageError if a flag is another objective's, naming those that this one has."""
    own = {flag(name) for name in parameters_of(algorithm, objective)}
    shared = {flag(field.name) for field in dataclasses.fields(TrainAnswers if algorithm == "grpo" else TrainTexts)}
    others = {flag(name) for other in objectives_of(algorithm) for name in parameters_of(algorithm, other)}
    for word in words:
        used = word.split("=")[0].replace("_", "-")
        if used in others - own - shared:
            raise UsageError(f"{objective or algorithm} has no {used}; it has {', '.join(sorted(own))}")
        if ELSEWHERE.get(used) in own | shared and used not in own | shared:
            raise UsageError(f"unrecognized options: {used}; did you mean {ELSEWHERE[used]}?")


def _planned(algorithm: str | None, words: list[str]) -> tuple[Train, Plan] | None:
    """The options and the plan of `polopt train ALGORITHM words`; None if help was asked for and given."""
    algorithm = check_algorithm(algorithm or "")
    _check_flags(algorithm, words)
    description = "\n\n".join(_recipes.about(algorithm)).replace("`", "")
    options = _read(train_options(algorithm), f"train {algorithm}", words, description)
    if options is None:
        return None
    return options.run, plan_train(algorithm, options.run, given(_recipes.parameters(algorithm), options.hyperparameters))


def _with_config(words: list[str]) -> tuple[str, list[str]]:
    """The algorithm, and the options of the file that `--config` names before those that were said. Raises UsageError.

    The command line comes later, and so it is what counts.
    """
    algorithm = words.pop(0) if words and not words[0].startswith("-") else None
    path = _value_of("--config", words)
    named, said = (None, []) if path is None else read_options(Path(path))
    if algorithm is None and named is None:
        if words:
            raise UsageError("the algorithm comes first: polopt train ALGORITHM --env NAME (polopt train --help)")
        raise UsageError("missing: ALGORITHM, --env NAME (polopt train --help)")
    if None not in (algorithm, named) and check_algorithm(algorithm or "") != named:
        raise UsageError(f"{path} is of {named}; leave {algorithm} out, or name another file")
    return algorithm or named or "", [*said, *words]


def _value_of(name: str, words: list[str]) -> str | None:
    """What follows a flag, or stands behind its equals sign; None where it is not there."""
    for place, word in enumerate(words):
        if word == name and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return None


def _compare(words: list[str], arguments: list[str]) -> int:
    if "--resume" in words:
        if (options := _read(ResumeCompare, "compare --resume", words)) is None:
            return 0
        path = runs.check_path(options.out) / runs.CONFIG
        plans = [plan for _, plan in filter(None, (_planned(*options_of(one, path)) for one in compared(path)))]
    else:
        if (options := _read(Compare, "compare", words)) is None:
            return 0
        plans = plan_compare(options)
    use_cache(arguments)
    return compare(options.out, plans, arguments, go_on="--resume" in words, json=options.json)


def _evaluate(words: list[str], arguments: list[str]) -> int:
    if (options := _read(Evaluate, "evaluate", words)) is None:
        return 0
    use_cache(arguments)
    return evaluate(options)


def _play(words: list[str], arguments: list[str]) -> int:
    if (options := _read(Play, "play", words)) is None:
        return 0
    use_cache(arguments)
    return play(options)


def _sample(words: list[str], arguments: list[str]) -> int:
    if (options := _read(Sample, "sample", words)) is None:
        return 0
    use_cache(arguments)
    return sample(options)


def _envs(words: list[str], arguments: list[str]) -> int:
    del arguments
    if (options := _read(Envs, "envs", words)) is not None:
        show(options.name, options.html)
    return 0


def _outcomes(words: list[str], arguments: list[str]) -> int:
    if (options := _read(Outcomes, "outcomes", words)) is None:
        return 0
    use_cache(arguments)
    return outcomes(options, arguments)


def _study(words: list[str], arguments: list[str]) -> int:
    if (options := _read(Study, "study", words)) is None:
        return 0
    use_cache(arguments)
    return study(options, arguments)


HELP_WORDS = ("-h", "--help", "help")
COMMANDS: dict[str, Callable[[list[str], list[str]], int]] = {
    "train": _train,
    "compare": _compare,
    "evaluate": _evaluate,
    "play": _play,
    "sample": _sample,
    "envs": _envs,
    "outcomes": _outcomes,
    "study": _study,
}
"""`(words after the command, the whole command line) -> exit code`"""


def _list_of_algorithms() -> str:
    """The description of `polopt train`, with what each recipe calls itself."""
    lines = [f"  {name:<14}{re.split('[:.;]', _recipes.about(name)[0])[0]}" for name in PRESETS]
    return "\n\n".join([inspect.getdoc(Train) or "", "\n".join(["Algorithms, each with --help of its own:", *lines])])


def _check_flags(algorithm: str, words: list[str]) -> None:
    """Raises UsageError if a flag is another algorithm's or another library's, naming those that this one has."""
    own = {flag(name) for name in _recipes.parameters(algorithm)}
    shared = {flag(field.name) for field in dataclasses.fields(Train)}
    others = {flag(name) for other in PRESETS for name in _recipes.parameters(other)}
    for word in words:
        used = word.split("=")[0].replace("_", "-")
        if ELSEWHERE.get(used) in own | shared and used not in own | shared:
            raise UsageError(f"unrecognized options: {used}; did you mean {ELSEWHERE[used]}?")
        if used in others - own - shared:
            known = ", ".join(flag(name) for name in _recipes.parameters(algorithm))
            raise UsageError(f"{algorithm} has no {used}; it has {known}")


def _read(kind: Any, command: str, words: list[str], description: str | None = None) -> Any:
    """The options of a command line, of the type `kind`; None if help was asked for and given. Raises UsageError."""
    said, complaint = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaint):
            options = tyro.conf.OmitArgPrefixes[kind]
            return tyro.cli(options, prog=f"polopt {command}", args=words, description=description)
    except SystemExit as exit_:
        if exit_.code:
            raise UsageError(f"{explain(complaint.getvalue())} (polopt {command} --help)") from None
        print(_wrapped(said.getvalue()))
        return None


def _wrapped(text: str) -> str:
    """Help whose paragraphs fit the terminal, as tyro's boxes already do."""
    width = min(shutil.get_terminal_size().columns, 100)
    lines = (
        line if line.startswith(("╭", "│", "╰")) else textwrap.fill(line, width, subsequent_indent=_indent(line))
        for line in text.splitlines()
    )
    return "\n".join(lines).strip()


def _indent(line: str) -> str:
    """Where a long line of a list goes on: under the words after its first column."""
    entry = re.match(r"  \S+ +", line)
    return " " * len(entry[0]) if entry else ""


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
