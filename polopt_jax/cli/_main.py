"""Reads the command line, runs the command, and turns what goes wrong into one line and an exit code."""

import dataclasses
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from polopt_jax import __version__, processes, runs
from polopt_jax.checkpoint import CheckpointError
from polopt_jax.cli import _recipes
from polopt_jax.cli._bench import bench
from polopt_jax.cli._cache import SWITCH, use_cache
from polopt_jax.cli._compare import compare
from polopt_jax.cli._config import compared, options_of, read_options
from polopt_jax.cli._devices import use_devices
from polopt_jax.cli._envs import check_algorithm, show
from polopt_jax.cli._evaluate import evaluate
from polopt_jax.cli._export import export
from polopt_jax.cli._hyperparameters import given, train_options
from polopt_jax.cli._options import Compare, Envs, Evaluate, Export, Play, Resume, ResumeCompare, Train
from polopt_jax.cli._outcomes import outcomes
from polopt_jax.cli._piece_options import Bench, Outcomes, Study
from polopt_jax.cli._plan import Plan, plan_compare, plan_train
from polopt_jax.cli._play import play
from polopt_jax.cli._presets import PRESETS
from polopt_jax.cli._progress import open_streams, say, silence
from polopt_jax.cli._reading import read_words, value_of
from polopt_jax.cli._study import study
from polopt_jax.cli._text_acting import sample
from polopt_jax.cli._text_family import ALGORITHMS
from polopt_jax.cli._text_main import learns_texts, train_on_texts
from polopt_jax.cli._text_options import Sample
from polopt_jax.cli._train import train
from polopt_jax.cli._words import (
    BROKEN_DOWN,
    ELSEWHERE,
    FILE_FAILED,
    UNUSABLE,
    WRONG_INPUT,
    CommandError,
    UsageError,
    choose,
    flag,
    one_line,
)
from polopt_jax.simulators import SimulatorError

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
  polopt export RUN FILE              what it has learnt, as safetensors
  polopt envs                         the environments and worlds
  polopt envs NAME                    one of them; a world is drawn
  polopt outcomes                     what objectives do to side effects
  polopt study                        objective, initialisation or scale?
  polopt bench                        how fast, beside other programs
  polopt COMMAND --help               the options of a command
  polopt --version

examples:

  polopt compare --budget 0.1
  polopt train ppo --env ant --num-seeds 3
  polopt train trpo --env hopper --radius 0.02 --out runs/wide
  polopt train --out runs/wide --resume
  polopt train ppo --env my.module:Env --hidden 256,256 --eval-every 100000
  polopt train ppo --env humanoid --devices 8
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
unusable, 6 a file could not be read or written, 7 other processes of the run
did not come or were lost, 130 or 143 interrupted by SIGINT or SIGTERM, and
saved.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command `polopt`; returns its exit code. `argv` is the command line without the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_streams()
    if "" not in sys.path:
        sys.path.append("")  # the working directory, as `python -m` has it: an environment of one's own may be there
    try:
        exit_code = _told(arguments)
    except BaseException:
        if processes.count() > 1:
            traceback.print_exc()
            processes.desert(1)
        raise
    processes.part(exit_code)
    return exit_code


def _told(arguments: list[str]) -> int:
    """The exit code of a command line; what goes wrong is said."""
    try:
        return _run(arguments)
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except processes.FirstFailed as error:
        return _fail(f"process 0: {error}", THEIRS.get(error.kind, FILE_FAILED))
    except runs.RunError as error:
        return _fail(str(error), WRONG_INPUT)
    except SimulatorError as error:
        return _fail(str(error), BROKEN_DOWN)
    except CheckpointError as error:
        return _fail(str(error), UNUSABLE)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read our output has gone
        silence(sys.stdout)
        return 0
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), FILE_FAILED)


THEIRS = {"RunError": WRONG_INPUT, "UsageError": WRONG_INPUT, "CheckpointError": UNUSABLE}
"""Exit codes of errors of the first process, by their names, in the others."""


def _fail(message: str, exit_code: int) -> int:
    say(f"polopt: {processes.name()}{'error: ' if exit_code < 128 else ''}{one_line(message)}")
    return exit_code


def _run(arguments: list[str]) -> int:
    first, *rest = [word for word in arguments if word != SWITCH] or ["--help"]
    if first in HELP_WORDS:
        print(HELP, end="")
        return 0
    if first == "--version":
        print(f"polopt {__version__}")
        return 0
    return COMMANDS[choose("command", first, tuple(COMMANDS))](rest, arguments)


def _train(words: list[str], arguments: list[str]) -> int:
    if words and words[0] in HELP_WORDS:
        read_words(Train, "train ALGORITHM", ["--help"], _list_of_algorithms())
        return 0
    named = None if not words or words[0].startswith("-") else words[0]
    anew = any(value_of(flag, words) is not None for flag in ("--env", "--data", "--config"))
    if "--resume" in words and (named is None or not anew):
        words = words if named is None else words[1:]
        if (resumed := read_words(Resume, "train --resume", words)) is None:
            return 0
        use_devices(resumed)
        config = processes.first(lambda: runs.read_config(runs.check_place(resumed.out)))
        algorithm, said = options_of(config, resumed.out / runs.CONFIG)
        if named is not None and named.lower() != algorithm:
            raise UsageError(f"{resumed.out} is a run of {algorithm}, not of {named}")
        words = [*said, *words]
    else:
        algorithm, words = _with_config(words)
    if learns_texts(algorithm, words):
        return train_on_texts(algorithm, words, arguments)
    planned = _planned(algorithm, words)
    if planned is None:
        return 0
    options, plan = planned
    use_cache(arguments)
    return train(options, plan, arguments)


def _planned(algorithm: str | None, words: list[str]) -> tuple[Train, Plan] | None:
    """The options and the plan of `polopt train ALGORITHM words`; None if help was asked for and given."""
    algorithm = check_algorithm(algorithm or "")
    _check_flags(algorithm, words)
    description = "\n\n".join(_recipes.about(algorithm)).replace("`", "")
    options = read_words(train_options(algorithm), f"train {algorithm}", words, description)
    if options is None:
        return None
    use_devices(options.run)
    return options.run, plan_train(
        algorithm, options.run, given(_recipes.parameters(algorithm), options.hyperparameters)
    )


def _with_config(words: list[str]) -> tuple[str, list[str]]:
    """The algorithm, and the options of the file that `--config` names before those that were said. Raises UsageError.

    The command line comes later, and so it is what counts.
    """
    algorithm = words.pop(0) if words and not words[0].startswith("-") else None
    path = value_of("--config", words)
    named, said = (None, []) if path is None else read_options(Path(path))
    if algorithm is None and named is None:
        if words:
            raise UsageError("the algorithm comes first: polopt train ALGORITHM --env NAME (polopt train --help)")
        raise UsageError("missing: ALGORITHM, --env NAME (polopt train --help)")
    known = tuple(dict.fromkeys((*PRESETS, *ALGORITHMS)))
    if None not in (algorithm, named) and choose("algorithm", algorithm or "", known) != named:
        raise UsageError(f"{path} is of {named}; leave {algorithm} out, or name another file")
    return algorithm or named or "", [*said, *words]


def _compare(words: list[str], arguments: list[str]) -> int:
    if "--resume" in words:
        if (options := read_words(ResumeCompare, "compare --resume", words)) is None:
            return 0
        path = runs.check_place(options.out) / runs.CONFIG
        plans = [plan for _, plan in filter(None, (_planned(*options_of(one, path)) for one in compared(path)))]
    else:
        if (options := read_words(Compare, "compare", words)) is None:
            return 0
        plans = plan_compare(options)
    use_cache(arguments)
    return compare(options.out, plans, arguments, go_on="--resume" in words, json=options.json)


Command: TypeAlias = Callable[[list[str], list[str]], int]
"""`(words after the command, the whole command line) -> exit code`"""


def _of(kind: Any, name: str, do: Callable[..., int], *, whole: bool = False) -> Command:
    """A command that reads its options and does one thing with them, and with the `whole` command line if it wants it.

    What it compiles is kept for the next time.
    """

    def command(words: list[str], arguments: list[str]) -> int:
        if (options := read_words(kind, name, words)) is None:
            return 0
        use_cache(arguments)
        return do(options, arguments) if whole else do(options)

    return command


def _export(words: list[str], arguments: list[str]) -> int:
    del arguments
    if (options := read_words(Export, "export", words)) is None:
        return 0
    return export(options)


def _envs(words: list[str], arguments: list[str]) -> int:
    del arguments
    if (options := read_words(Envs, "envs", words)) is not None:
        show(options.name, options.html)
    return 0


HELP_WORDS = ("-h", "--help", "help")
COMMANDS: dict[str, Command] = {
    "train": _train,
    "compare": _compare,
    "evaluate": _of(Evaluate, "evaluate", evaluate),
    "play": _of(Play, "play", play),
    "sample": _of(Sample, "sample", sample),
    "export": _export,
    "envs": _envs,
    "outcomes": _of(Outcomes, "outcomes", outcomes, whole=True),
    "study": _of(Study, "study", study, whole=True),
    "bench": _of(Bench, "bench", bench, whole=True),
}


def _list_of_algorithms() -> str:
    """The description of `polopt train`, with what each recipe calls itself."""
    lines = [f"  {name:<14}{re.split('[:.;]', _recipes.about(name)[0])[0]}" for name in PRESETS]
    lines = ["Algorithms, each with --help of its own:", *lines]
    texts = (
        f"On texts, --data FILE: {', '.join(ALGORITHMS)}. The first is supervised learning; the others start from it."
    )
    return "\n\n".join([inspect.getdoc(Train) or "", "\n".join(lines), texts])


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
