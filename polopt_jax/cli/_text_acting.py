"""`polopt sample`, and what `polopt evaluate` and `polopt play` do of a run on texts."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from polopt_jax import language, report, runs, texts
from polopt_jax.cli._progress import say
from polopt_jax.cli._table import show_table
from polopt_jax.cli._text_completions import LENGTH, completions_shown
from polopt_jax.cli._text_options import Sample
from polopt_jax.cli._text_plan import TextPlan, is_of_texts
from polopt_jax.cli._text_rewards import check_reward, scoring
from polopt_jax.cli._text_runs import data_of, evaluated, learnt, plan_of
from polopt_jax.cli._words import UsageError, flag
from polopt_jax.report import Column, Group
from polopt_jax.settings import TOKENIZER, byte_transformer
from polopt_jax.texts import Completion

HELD_PROMPTS = 4
"""Prompts of the run that are completed where none is given."""
LIMITS = {"num": (1, 4096), "length": (1, 2**15), "top_k": (1, 2**20), "key": (0, 10**9)}


def sample(options: Sample) -> int:
    """Prints completions of prompts."""
    _check(options)
    config = runs.read_run_config(options.run)
    if not is_of_texts(config):
        raise UsageError(f"{options.run} is a run on {config.get('env')}, not on texts; polopt play shows what it does")
    plan = plan_of(config, options.run)
    found = learnt(plan, options.run)
    place = _place(plan, options)
    params, reference = (jax.tree.map(lambda x: x[place], tree) for tree in (found.params, found.reference))
    prompts = list(options.prompt) or _held_prompts(plan, options.run)
    say(f"{plan.title}, seed {plan.schedule.seed + place}, after {found.update} updates")
    network = _network(plan, options)
    length = options.length or max(1, min(LENGTH, _room(plan, prompts)))
    key = jax.random.key(options.key)
    try:
        said = texts.complete_prompts(
            network, params, reference, prompts, TOKENIZER, key, length=length, samples=options.num
        )
    except ValueError as error:
        raise UsageError(f"--prompt, --length {length}: {error}") from error
    _print(said, as_json=options.json)
    return 0


def _check(options: Sample) -> None:
    for name, (least, most) in LIMITS.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            raise UsageError(f"{flag(name)} must be from {least} to {most:,}; it is {value}")
    temperature = 1.0 if options.temperature is None else options.temperature
    if not 0 < temperature < float("inf"):
        raise UsageError(f"--temperature must be finite and above 0; it is {options.temperature}")
    if options.top_p is not None and not 0 < options.top_p <= 1:
        raise UsageError(f"--top-p must be above 0 and at most 1; it is {options.top_p}")
    given = {"--temperature": options.temperature, "--top-k": options.top_k, "--top-p": options.top_p}
    if options.greedy and any(x is not None for x in given.values()):
        raise UsageError(
            f"--greedy takes the likeliest token; leave out {' and '.join(k for k, x in given.items() if x)}"
        )


def _place(plan: TextPlan, options: Sample) -> int:
    if options.seed is not None and options.seed not in plan.seeds:
        raise UsageError(f"{options.run} has no seed {options.seed}; it has {', '.join(map(str, plan.seeds))}")
    return 0 if options.seed is None else options.seed - plan.schedule.seed


def _held_prompts(plan: TextPlan, directory: Path) -> list[str]:
    data = data_of(plan, directory)
    return list(dict.fromkeys(record.prompt for record in (data.held or data.train)))[:HELD_PROMPTS]


def _room(plan: TextPlan, prompts: list[str]) -> int:
    return plan.max_length - max(len(TOKENIZER.encode(prompt)) for prompt in prompts)


def _network(plan: TextPlan, options: Sample) -> language.TokenNetwork:
    network = byte_transformer(**plan.network)
    if options.greedy:
        return language.greedy_network(network)
    temperature = options.temperature or plan.temperature or 1.0
    return language.tempered_network(network, temperature=temperature, top_k=options.top_k, top_p=options.top_p)


def _print(said: list[list[Completion]], *, as_json: bool) -> None:
    if as_json:
        rows = [_numbers(completion) for rows in said for completion in rows]
        print(runs.to_json({"completions": rows}, indent=2))
        return
    for rows in said:
        for completion in rows:
            print(f"{completion.prompt}{completion.text}{'' if completion.ended else ' …'}")


def _numbers(completion: Completion) -> dict[str, Any]:
    return {
        "prompt": completion.prompt,
        "completion": completion.text,
        "ended": completion.ended,
        "log_prob": float(completion.log_prob.sum()),
        "log_ratio": float(completion.log_ratio.sum()),
    }


def evaluate_texts(directory: Path, config: Any, *, as_json: bool) -> int:
    """Prints what the held-out examples say of every seed."""
    plan = plan_of(config, directory)
    update, found = evaluated(plan, directory)
    say(f"{plan.title} after {update} updates, on what was held out")
    rows = [{"seed": seed, **{name: x[i] for name, x in found.items()}} for i, seed in enumerate(plan.seeds)]
    if as_json:
        said = {"directory": str(directory), "data": plan.data, "algorithm": plan.called, "update": update}
        print(runs.to_json({**said, "seeds": rows}, indent=2))
        return 0
    names = [name for name in found if name != "num_valid"]
    columns = [Column(("", "seed"), lambda row: str(row["seed"])), *map(_column, names)]
    mean = {"seed": "all", **{name: float(np.mean(found[name])) for name in names}}
    show_table(columns, [Group(plan.title, rows if len(rows) == 1 else [*rows, mean])])
    return 0


def _column(name: str) -> Column:
    return Column(("", name.replace("_", " ")), lambda row: report.short(row[name]))


def page_of_texts(directory: Path, config: Any) -> tuple[str, str]:
    """A page of completions before and after, and what there is to say of them."""
    plan = plan_of(config, directory)
    data = data_of(plan, directory)
    try:
        check_reward(plan.reward, data)
        with scoring(plan) as score:
            shown = completions_shown(plan, directory, data.held or data.train, score)
    except UsageError as error:  # the reward has gone; what was learnt is there
        say(f"without rewards: {error}")
        shown = completions_shown(plan, directory, data.held or data.train)
    mean, half_width = shown.kl
    said = f"KL(π‖ref) of a completion: {report.estimate(mean, half_width)} nats, from the sampled ones."
    return report.page(plan.title, f"Seed {plan.schedule.seed}. {said}", shown.sections), said
