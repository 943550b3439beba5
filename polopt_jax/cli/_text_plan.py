"""From options to the plan of a run on texts, everything checked and decided before anything is learnt."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polopt_jax import runs
from polopt_jax.cli._plan import RATES, check_loggers
from polopt_jax.cli._text_family import ALGORITHMS, choose_objective, parameters_of
from polopt_jax.cli._text_options import TrainAnswers, TrainTexts
from polopt_jax.cli._versions import PACKAGES, source, versions
from polopt_jax.cli._words import UsageError, choose, flag

STEPS = {"sft": (150, 8_000), "dpo": (3, 10**12), "grpo": (100, 1_600)}
"""Passes over the examples, and examples at most, where nothing is said. After more passes over preferences the policy
is soon far from its reference."""
NETWORK = {"max_length": 256, "width": 64, "depth": 3, "heads": 4}
BATCH_SIZE, GROUP_SIZE, ANSWER_LENGTH = 16, 8, 64
MOST_HELD = 128
"""Records that are held out, at most."""
LIMITS = {
    "steps": (1, 10**12),
    "batch_size": (1, 2**16),
    "max_length": (2, 2**15),
    "width": (1, 2**14),
    "depth": (1, 256),
    "heads": (1, 256),
    "seed": (0, 10**9),
    "num_seeds": (1, 256),
    "reward_workers": (0, 1024),
    "reward_batch_size": (1, 2**16),
    "group_size": (2, 2**14),
    "answer_length": (1, 2**15),
}
"""From what to what each may be."""


@dataclass(frozen=True, kw_only=True)
class TextPlan:
    """One algorithm on one file of texts, every size decided."""

    algorithm: str
    objective: str | None
    """The member of the family; None of imitation."""
    data: str
    data_sha256: str
    init: str | None
    batch_size: int
    held_out: float
    max_length: int
    width: int
    depth: int
    heads: int
    rate: str
    """What becomes of the learning rate, of `RATES`."""
    log_to: tuple[str, ...]
    hyperparameters: dict[str, Any]
    """Every one, of the way to learn and of the objective."""
    schedule: runs.Schedule
    reward: str | None = None
    reward_workers: int | None = None
    reward_time_limit: float | None = None
    reward_batch_size: int | None = None
    group_size: int | None = None
    answer_length: int | None = None
    temperature: float | None = None

    measured_apart = False
    eval_every = None

    @property
    def called(self) -> str:
        """The algorithm, or the member of its family, if that is another one."""
        return self.objective or self.algorithm

    @property
    def title(self) -> str:
        """What is learnt, in a few words."""
        return f"{self.called} on {self.env}"

    @property
    def env(self) -> str:
        """The name of the file."""
        return Path(self.data).name

    @property
    def name(self) -> str:
        """What its directory is called, where nobody says."""
        return f"{_plain(Path(self.data).name.split('.')[0])}-{self.called}"

    @property
    def has_reference(self) -> bool:
        """Whether it starts from more than a network that knows nothing, so that distances from there say anything."""
        return self.init is not None or self.algorithm != ALGORITHMS[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those that are trained side by side."""
        return tuple(range(self.schedule.seed, self.schedule.seed + self.schedule.num_seeds))

    @property
    def network(self) -> dict[str, int]:
        """The sizes of the transformer."""
        return {name: getattr(self, name) for name in NETWORK}

    def own(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The hyperparameters that are among these, the learning rate as the schedule that it follows."""
        values = {name: value for name, value in self.hyperparameters.items() if name in parameters}
        if "learning_rate" in values:
            values["learning_rate"] = RATES[self.rate](values["learning_rate"], self.schedule.updates)
        return values

    def config(self) -> dict[str, Any]:
        """The plan as JSON, with every default, constant and version written out: equal configs are equal runs."""
        apart = ("hyperparameters", "schedule", "rate")
        own = {name: x for name, x in asdict(self).items() if name not in apart}
        hyperparameters = {name: _listed(x) for name, x in self.hyperparameters.items()}
        return {
            **{name: _listed(x) for name, x in own.items()},
            **self.schedule.config(),
            "schedule": self.rate,
            "hyperparameters": hyperparameters,
            "versions": versions(*PACKAGES) | ({} if self.reward is None else {self.reward: source(self.reward)}),
        }


def is_of_texts(config: Mapping[str, Any]) -> bool:
    """Whether the config of a run is that of one on texts."""
    return "data_sha256" in config


def plan_texts(
    algorithm: str, options: TrainTexts, hyperparameters: Mapping[str, Any], number_of: Any, start: Mapping[str, Any]
) -> TextPlan:
    """The plan of `polopt train` on texts; raises UsageError.

    Args:
      number_of: `max_length -> examples that there are to learn from`, asked once the sizes are known.
      start: the config of the run of `--init`, or of this one if it goes on; empty without `--init`.
    """
    objective = choose_objective(algorithm, options.objective)
    check_sizes(options)
    sizes = {name: _size(name, getattr(options, name), start) for name in NETWORK}
    if sizes["width"] % sizes["heads"] or sizes["width"] // sizes["heads"] % 2:
        raise UsageError(
            f"--width {sizes['width']} must be a multiple of twice --heads {sizes['heads']}: a head has an even size"
        )
    answers = {} if not isinstance(options, TrainAnswers) else _answers(options, sizes["max_length"])
    known = parameters_of(algorithm, objective)
    values = {**{name: parameter.default for name, parameter in known.items()}, **hyperparameters}
    examples = number_of(sizes["max_length"])
    batch_size = _batch_size(options.batch_size, examples, values.get("num_minibatches", 1))
    passes, most = STEPS[algorithm]
    steps = min(passes * examples, most) if options.steps is None else options.steps
    schedule = runs.schedule(steps=steps, decisions=batch_size, seed=options.seed, num_seeds=options.num_seeds)
    return TextPlan(
        algorithm=algorithm,
        objective=objective,
        data=str(options.data.absolute()),
        data_sha256=digest(options.data),
        init=None if options.init is None else str(options.init.absolute()),
        batch_size=batch_size,
        held_out=options.held_out,
        **sizes,
        rate=next(iter(RATES)) if options.schedule is None else choose("schedule", options.schedule, tuple(RATES)),
        log_to=check_loggers(options.log_to),
        hyperparameters=values,
        schedule=schedule,
        **answers,
    )


def check_sizes(options: TrainTexts) -> None:
    """Raises UsageError for a number out of range."""
    for name, (least, most) in LIMITS.items():
        value = getattr(options, name, None)
        if value is not None and not least <= value <= most:
            raise UsageError(f"{flag(name)} must be from {least} to {most:,}; it is {value}")
    if not 0 <= options.held_out < 1:
        raise UsageError(f"--held-out must be at least 0 and below 1; it is {options.held_out}")


def check_unchanged(path: Path, sha256: str, run: Path) -> None:
    """Raises UsageError if the file that a run learns from is gone, or is another one now."""
    if not path.exists():
        raise UsageError(f"the examples of {run} are in {path}, which is not there")
    if digest(path) != sha256:
        raise UsageError(f"{path} is no longer what it was when {run} was begun; put it back, or begin anew")


def digest(path: Path) -> str:
    """The SHA-256 of a file, or of the files of a directory with their names."""
    found = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        found.update(b"" if file == path else file.relative_to(path).as_posix().encode())
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(2**20), b""):
                found.update(block)
    return found.hexdigest()


def _size(name: str, asked: int | None, start: Mapping[str, Any]) -> int:
    """A size of the network: that of the run it starts from, if there is one."""
    if name in start:
        if asked not in (None, start[name]):
            raise UsageError(f"{flag(name)} is {start[name]} in the run of --init; it cannot be {asked}")
        return start[name]
    return NETWORK[name] if asked is None else asked


def answer_length(options: Any, max_length: int) -> int:
    """Tokens of an answer at most: as asked for, or as many as is usual, or half of what is read."""
    return options.answer_length or min(ANSWER_LENGTH, max_length // 2)


def _answers(options: TrainAnswers, max_length: int) -> dict[str, Any]:
    if options.reward is None:
        raise UsageError("missing: --reward package.module:function, what an answer to a prompt is worth")
    if options.reward_time_limit is not None:
        if not (math.isfinite(options.reward_time_limit) and options.reward_time_limit > 0):
            raise UsageError(f"--reward-time-limit must be above 0; it is {options.reward_time_limit}")
        if options.reward_workers == 0:
            raise UsageError("--reward-time-limit needs --reward-workers N: nothing can end a call within this process")
    if not (math.isfinite(options.temperature) and options.temperature > 0):
        raise UsageError(f"--temperature must be finite and above 0; it is {options.temperature}")
    length = answer_length(options, max_length)
    if length >= max_length:
        raise UsageError(f"--answer-length {length} leaves no room for a prompt: --max-length is {max_length}")
    return {
        "reward": options.reward,
        "reward_workers": options.reward_workers,
        "reward_time_limit": options.reward_time_limit,
        "reward_batch_size": options.reward_batch_size,
        "group_size": options.group_size or GROUP_SIZE,
        "answer_length": length,
        "temperature": options.temperature,
    }


def _batch_size(asked: int | None, examples: int, minibatches: int) -> int:
    """As asked for, or as many as is usual, or as there are; a multiple of the minibatches."""
    if asked is not None:
        if asked > examples:
            raise UsageError(f"--batch-size {asked} is more than the {examples} examples that there are to learn from")
        if asked % minibatches:
            raise UsageError(f"--batch-size {asked} is not a multiple of --num-minibatches {minibatches}")
        return asked
    largest = min(BATCH_SIZE, examples) // minibatches * minibatches
    if not largest:
        raise UsageError(f"there are {examples} examples to learn from, fewer than --num-minibatches {minibatches}")
    return largest


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _plain(name: str) -> str:
    """A name that a directory can have."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name).strip("-_")
    return kept[:40] or "texts"
