"""From a plan on texts to something that can be run: the start, the examples, the way to learn."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from polopt_jax import checkpoint, driver, language, report, runs, texts
from polopt_jax.cli import _recipes
from polopt_jax.cli._text_data import Data, chosen_texts, prompt_examples, text_examples
from polopt_jax.cli._text_family import ALGORITHMS, kind_of, term_of, way
from polopt_jax.cli._text_plan import TextPlan, is_of_texts
from polopt_jax.cli._words import UsageError
from polopt_jax.driver import Hosted
from polopt_jax.loading import load
from polopt_jax.runs import Progress
from polopt_jax.settings import TOKENIZER, byte_transformer
from polopt_jax.types import Batch, Params

REFERENCE_PART = f".collect_state['{texts.REFERENCE}']"
"""Where a checkpoint keeps the reference."""
IMITATION_UPDATES = 500
"""Of the preferred completions, before preferences are learnt without --init."""


class Start(NamedTuple):
    """Where a run on texts starts."""

    params: Params | None
    """None for a network that knows nothing."""
    told: str


def init_config(run: Path | None) -> dict[str, Any]:
    """The config of the run of --init; empty without one. Raises UsageError if it is none on texts."""
    if run is None:
        return {}
    config = runs.read_run_config(run)
    if not is_of_texts(config):
        raise UsageError(f"--init {run} is a run of {config.get('algorithm')} on {config.get('env')}, not on texts")
    return config


def network_of(plan: TextPlan) -> language.TokenNetwork:
    """The transformer of a plan, at the temperature at which it is sampled and trained."""
    return byte_transformer(**plan.network, temperature=plan.temperature)


def start_of(plan: TextPlan, data: Data, directory: Path, *, begun: bool, shown: Progress, stop: runs.Stop) -> Start:
    """Where a run starts: what it keeps itself if it has begun, the run of --init, or what it has to learn first."""
    if begun:
        return Start(restored_reference(plan, directory), "")
    if plan.init is not None:
        policy = load(plan.init)
        then, now = (x or 1.0 for x in (policy.config.get("temperature"), plan.temperature))
        other = "" if then == now else f" (at temperature {now:g}; it was trained at {then:g})"
        return Start(policy.params, f"It starts from {plan.init}, whose policy is also the reference{other}.")
    if plan.algorithm == ALGORITHMS[0]:
        return Start(None, "It starts from a network that knows nothing.")
    return _imitated(plan, data, shown, stop)


def restored_reference(plan: TextPlan, directory: Path) -> Params:
    """The reference that a run keeps, that of the first seed."""
    like = {REFERENCE_PART: jax.eval_shape(byte_transformer(**plan.network).init, jax.random.key(0))}
    store = directory / runs.CHECKPOINTS
    saved, _ = checkpoint.restore_parts(store, like, leading=(plan.schedule.num_seeds,))
    return jax.tree.map(lambda x: x[0], saved[REFERENCE_PART])


def _imitated(plan: TextPlan, data: Data, shown: Progress, stop: runs.Stop) -> Start:
    """The start of a run on preferences without --init: what the preferred completions teach.

    As the authors of DPO have it where there is no model that was tuned to the data (Rafailov et al. 2023, section 4).
    An interrupt ends it early, and then nothing is learnt from there.
    """
    train = text_examples(chosen_texts(data.train), max_length=plan.max_length)
    rows = min(plan.batch_size, len(train.kept))
    shown.stage("compiling the imitation of what was preferred...")
    learning = texts.Learning(byte_transformer(**plan.network), None, rows, (plan.schedule.seed,))
    preferred = chosen_texts(data.held)
    held = text_examples(preferred, max_length=plan.max_length) if preferred else None
    hosted = texts.imitation(learning, train, held)
    run = driver.prepare(hosted, driver.seed_keys(plan.schedule.seed, 1), chunk_updates=10)
    chunk = None
    for chunk in driver.chunks(run, IMITATION_UPDATES // 10):
        loss = report.short(float(chunk.metrics["loss"][0, -1]))
        shown.stage(f"imitating what was preferred: {100 * chunk.update // IMITATION_UPDATES}%, {loss} nats a token")
        if stop:
            break
    told = f"It starts from {IMITATION_UPDATES} updates of imitation of what was preferred, which is also the reference"
    if chunk is not None and run.evaluate is not None:
        known = float(run.evaluate(chunk.state)[f"{texts.HELD}loss"][0])
        told += f": {report.short(known)} nats per token on those held out"
    params = None if chunk is None else jax.tree.map(lambda x: x[0], chunk.state.params)
    return Start(params, f"{told}.")


# The way to learn


def build(plan: TextPlan, data: Data, start: Params | None, score: language.Score | None) -> Hosted:
    """What is learnt, and from what. `score` is that of answers, where they are."""
    kind = kind_of(plan.algorithm, plan.objective)
    learning = texts.Learning(network_of(plan), start, plan.batch_size, plan.seeds)
    train, held = (examples_of(plan, part, kind, start) if part else None for part in (data.train, data.held))
    if train is None:
        raise ValueError("there is nothing to learn from")
    learn = way(plan.algorithm, plan.objective)
    own = plan.own(_recipes.parameters_of(learn))
    if kind == ALGORITHMS[0]:
        return learn(learning, train, held, **own)
    term = _term(plan)
    if kind == "pairs":
        return learn(learning, train, held, term, **own)
    if kind == "labels":
        return learn(learning, train, held, term, texts.UNPAIRED[plan.objective or ""].reference_point, **own)
    if score is None or plan.answer_length is None or plan.group_size is None:
        raise ValueError("answers need a score, a length and a size of groups")
    answers = texts.Answers(plan.answer_length, plan.group_size, TOKENIZER, score)
    return learn(learning, train, held, answers, term, texts.GROUPED[plan.objective or ""].advantage, **own)


def _term(plan: TextPlan) -> Any:
    """The objective, with its hyperparameters; one that divides by the length of answers is told it."""
    function = term_of(plan.algorithm, plan.objective)
    known = _recipes.parameters_of(function)
    own = {name: value for name, value in plan.hyperparameters.items() if name in known}
    return function(**own, **({"length": plan.answer_length} if "length" in known else {}))


def examples_of(plan: TextPlan, records: Any, kind: str, reference: Params | None) -> texts.Examples:
    """Records as what an update takes rows of."""
    if kind == "sft":
        return text_examples(records, max_length=plan.max_length)
    if kind == "grpo":
        return prompt_examples(records, max_length=plan.max_length - (plan.answer_length or 0) + 1)
    sizes = dict(rows=2 * plan.batch_size, axis=1 if kind == "pairs" else 0)

    def beside(rows: language.Rows) -> Batch:
        return texts.with_reference(network_of(plan), reference, rows.batch, **sizes)

    if kind == "pairs":
        rows = language.pair_rows(records, TOKENIZER, max_length=plan.max_length)
        return texts.examples(beside(rows), rows.kept, axis=1)
    return _labels(records, beside, plan.max_length)


def of_other_prompts(records: Sequence[Any]) -> list[Any]:
    """For each record the next one, round the end, with another prompt; itself where all have the same.

    Records of one prompt often stand together, one good and one bad: the very next one would be no other.

    >>> [r.line for r in of_other_prompts([language.Prompt(p, n) for n, p in enumerate("aabbc")])]
    [2, 2, 4, 4, 0]
    """
    found = list(records)
    following = records[0]
    for place in reversed(range(2 * len(records))):  # twice, so that the last ones have seen the first
        n, after = place % len(records), records[(place + 1) % len(records)]
        following = following if after.prompt == records[n].prompt else after
        found[n] = following
    return found


def _labels(records: Any, beside: Callable[[language.Rows], Batch], max_length: int) -> texts.Examples:
    """Labelled rows, and the prompts with completions of other ones.

    Of a completion that does not fit behind another's prompt, the end is cut off.
    """
    rows = language.labelled_rows(records, TOKENIZER, max_length=max_length)
    swapped = []
    for record, other in zip(records, of_other_prompts(records), strict=True):
        room = max_length - 2 - len(record.prompt.encode())
        completion = other.completion.encode()[:room].decode(errors="ignore") or record.completion
        swapped.append(record._replace(completion=completion))
    mismatched = language.labelled_rows(swapped, TOKENIZER, max_length=max_length)
    return texts.examples(texts.Labels(rows=beside(rows), mismatched=beside(mismatched)), rows.kept)
