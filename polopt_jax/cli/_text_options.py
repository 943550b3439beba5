"""The flags of `polopt train` on texts from a file, and of `polopt sample`, as frozen dataclasses that tyro reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polopt_jax.cli._flags import (
    NAME,
    NUMBER,
    SWITCH,
    WHOLE,
    Config,
    Json,
    LogTo,
    NumSeeds,
    OneSeed,
    Out,
    Resumed,
    Schedule,
    shown,
)


@dataclass(frozen=True)
class TrainTexts:
    """Learn from texts of your own, with checkpoints, curves and a report.

    Everything goes to a run directory: config.json, metrics.jsonl (a line per chunk of updates), checkpoints,
    curves.png and report.html, with completions before and after. Ctrl-C saves and says how to go on.
    """

    data: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """JSON Lines, also gzipped, or a directory saved by datasets; what a line must have stands above."""
    objective: Annotated[str | None, NAME, shown("NAME", "the algorithm's own")] = None
    """Another member of the family, by the name of its function; --help then has its hyperparameters."""
    init: Annotated[Path | None, shown("RUN", "by algorithm")] = None
    """An earlier run on texts to start from, of several seeds the first. Its policy is also the reference."""
    steps: Annotated[
        int | None, WHOLE, shown("N", "150 passes or 8000 rows; preferences: 3 passes; prompts: 100 passes or 1600")
    ] = None
    """Examples that each seed learns from: rows of texts, pairs, or prompts; rounded up to whole rows
    of the log, of a few updates each."""
    batch_size: Annotated[int | None, WHOLE, shown("N", "16, or all there are")] = None
    """Examples of an update."""
    held_out: Annotated[float, NUMBER, shown("FLOAT", "0.1")] = 0.1
    """Share of the prompts that nothing is learnt from, and by which the result is measured."""
    max_length: Annotated[int | None, WHOLE, shown("N", "256, or that of --init")] = None
    """The longest text that is read, prompt and completion, in tokens, which are bytes."""
    width: Annotated[int | None, WHOLE, shown("N", "64, or that of --init")] = None
    """Of the transformer's hidden states."""
    depth: Annotated[int | None, WHOLE, shown("N", "3, or that of --init")] = None
    """Blocks of the transformer."""
    heads: Annotated[int | None, WHOLE, shown("N", "4, or that of --init")] = None
    """Attention heads of each block."""
    schedule: Schedule = None
    seed: Annotated[int, WHOLE, shown("N", "0")] = 0
    """The first seed: of the order of the examples, of samples, and of parameters where there is no --init."""
    num_seeds: NumSeeds = 1
    out: Out = None
    config: Config = None
    log_to: LogTo = ()
    resume: Resumed = False
    json: Json = False


@dataclass(frozen=True)
class TrainAnswers(TrainTexts):
    """Learn from what a function says of answers to prompts of your own."""

    reward: Annotated[
        str | None,
        NAME,
        shown(
            "NAME",
            "must be given",
            "package.module:function, called with a prompt and a completion: what the completion is worth, a number. "
            "Further parameters are fields of the prompt's line, by name. Where it raises an error, or gives no "
            "number, the answer is left out of its group and counted.",
        ),
    ] = None
    reward_workers: Annotated[int, WHOLE, shown("N", "0")] = 0
    """Processes that call it side by side; 0 for this one."""
    reward_time_limit: Annotated[float | None, NUMBER, shown("SECONDS", "none")] = None
    """After which a call has failed; needs --reward-workers."""
    reward_batch_size: Annotated[int | None, WHOLE, shown("N", "one, and no lists")] = None
    """Answers of a call at most. The reward is called with lists then, and gives a number for each."""
    group_size: Annotated[int | None, WHOLE, shown("N", "8")] = None
    """Answers to each prompt."""
    answer_length: Annotated[int | None, WHOLE, shown("N", "64, or half of --max-length")] = None
    """Tokens of an answer at most."""
    temperature: Annotated[float, NUMBER, shown("FLOAT", "1")] = 1.0
    """Of the policy that answers and is trained."""


@dataclass(frozen=True)
class Sample:
    """Complete prompts with what a run on texts has learnt.

    The newest checkpoint speaks; nothing in the directory changes, and the run may still be going on.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The directory of a run of polopt train on texts."""
    prompt: Annotated[tuple[str, ...], shown("TEXT ...", "prompts of the run that were held out")] = ()
    """What is to be completed; one or several."""
    num: Annotated[int, WHOLE, shown("N", "1")] = 1
    """Completions of each prompt."""
    length: Annotated[int | None, WHOLE, shown("N", "64, or what there is room for")] = None
    """Tokens of a completion at most."""
    temperature: Annotated[float | None, NUMBER, shown("FLOAT", "1, or that of the run")] = None
    """Below 1 the likely tokens become likelier."""
    top_k: Annotated[int | None, WHOLE, shown("N", "all")] = None
    """Only so many tokens, the likeliest."""
    top_p: Annotated[float | None, NUMBER, shown("FLOAT", "1")] = None
    """Only the likeliest tokens that have this much probability together."""
    greedy: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """The likeliest token each time."""
    seed: OneSeed = None
    key: Annotated[int, WHOLE, shown("N", "0")] = 0
    """Randomness of the samples."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Print them as JSON, with the log-probability of each and its log-ratio to the reference."""
