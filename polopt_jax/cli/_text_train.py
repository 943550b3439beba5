"""`polopt train` on texts of one's own."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polopt_jax import runs
from polopt_jax.cli._loggers import telling
from polopt_jax.cli._progress import acknowledge, progress, say
from polopt_jax.cli._result import Result
from polopt_jax.cli._running import exit_code, failures_told, is_done, started
from polopt_jax.cli._text_build import build, init_config, start_of
from polopt_jax.cli._text_data import Data, about_data, chosen_texts, read_data, tell_problems, text_examples
from polopt_jax.cli._text_family import choose_objective, kind_of
from polopt_jax.cli._text_options import TrainTexts
from polopt_jax.cli._text_plan import TextPlan, answer_length, check_unchanged, is_of_texts, plan_texts
from polopt_jax.cli._text_report import print_texts, written
from polopt_jax.cli._text_rewards import check_reward, scoring
from polopt_jax.cli._words import UsageError


def train_texts(algorithm: str, options: TrainTexts, hyperparameters: dict[str, Any], arguments: Sequence[str]) -> int:
    """Learns from a file, or goes on learning; returns the exit code."""
    plan, data = planned(algorithm, options, hyperparameters)
    default = f"{plan.name}-{plan.schedule.seed}"
    opened = runs.existing(options.out or Path()) if options.resume else runs.new(options.out, default)
    with opened as directory, failures_told(directory, arguments), scoring(plan) as score:
        start = runs.Start(directory, plan.config())
        if options.resume:
            plan, start, notes = started(plan, directory, steps=options.steps)
            for note in notes:
                say(note)
        tell_problems(data, options.data)
        if is_done(plan, start):
            say(f"{directory} is finished, with {plan.schedule.updates} updates; a larger --steps would go on")
            return print_texts(
                written(plan, data, Result(plan, start.rows), arguments, directory, score), json=options.json
            )
        return _train(plan, data, start, score, options, arguments)


def planned(algorithm: str, options: TrainTexts, hyperparameters: dict[str, Any]) -> tuple[TextPlan, Data]:
    """The plan and the data of a command line. Raises UsageError."""
    if options.resume and options.out is None:
        raise UsageError("--resume needs --out, the run directory to go on with")
    if options.resume and options.out is not None:
        begun = runs.read_config(options.out)
        check_unchanged(options.data, begun.get("data_sha256", ""), options.out)
        start = begun if options.init is not None and is_of_texts(begun) else {}  # what it started from may have gone
    else:
        start = init_config(options.init)
    kind = kind_of(algorithm, choose_objective(algorithm, options.objective))
    if kind == "grpo" and options.init is None:
        raise UsageError(
            "grpo learns from its own answers, so it needs a model that can already speak: --init RUN, of "
            "polopt train sft --data FILE"
        )
    found: dict[str, Data] = {}

    def number_of(max_length: int) -> int:
        answers = answer_length(options, max_length) if kind == "grpo" else None
        data = read_data(options.data, kind, held_out=options.held_out, max_length=max_length, answer_length=answers)
        found["data"] = data
        if kind != "sft":
            return len(data.train)
        return len(text_examples(data.train, max_length=max_length).kept) if data.train else 0

    plan = plan_texts(algorithm, options, hyperparameters, number_of, start)
    check_reward(plan.reward, found["data"])
    if plan.init is None and kind == "labels" and not chosen_texts(found["data"].train):
        raise UsageError(
            f"--data: no line of {options.data} to learn from has label true, so there is nothing to imitate before "
            "preferences are learnt: give --init RUN, of polopt train sft --data FILE"
        )
    return plan, found["data"]


def _train(
    plan: TextPlan, data: Data, start: runs.Start, score: Any, options: TrainTexts, arguments: Sequence[str]
) -> int:
    schedule, directory = plan.schedule, start.directory
    say(f"{plan.title}: {about_data(data)} {schedule.seeds}, {schedule.steps:,} examples each, in {directory}")
    if start.update is None:
        runs.settle(start)
    with runs.stop_on_signals(acknowledge) as stop:
        with progress(plan.called) as shown:
            first = start_of(plan, data, directory, begun=start.update is not None, shown=shown, stop=stop)
            with contextlib.closing(runs.Log(directory / runs.ROWS)) as log, telling(plan, start) as tell:
                made = runs.run(
                    schedule,
                    lambda: build(plan, data, first.params, score),
                    log,
                    shown,
                    stop,
                    start,
                    evaluate_every=schedule.chunk_updates,
                    tell=tell,
                )
        result = Result(plan, *made)
        files = written(plan, data, result, arguments, directory, score, told=first.told)
    print_texts(files, json=options.json)
    return exit_code(result, stop, arguments, directory)
