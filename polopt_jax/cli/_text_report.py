"""What a run on texts leaves: summary.json, curves.png, report.html, and what it says on stdout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from polopt_jax import language, report, runs
from polopt_jax.cli import _recipes
from polopt_jax.cli._report import CURVES, PAGE, SUMMARY, curve, facts
from polopt_jax.cli._result import Result, Summary
from polopt_jax.cli._table import show_table
from polopt_jax.cli._text_completions import Shown, completions_shown
from polopt_jax.cli._text_data import Data, about_data
from polopt_jax.cli._text_family import term_of, way
from polopt_jax.cli._text_plan import TextPlan
from polopt_jax.cli._words import flag
from polopt_jax.report import Column, Group, Panel, Section, Strip

PANELS = {
    "loss": "Loss",
    "held/loss": "Loss, held out",
    "reward": "Reward",
    "held/reward": "Reward, held out",
    "held/accuracy": "Accuracy, held out",
    "held/margin": "Margin, held out",
    "held/chosen_moved": "log π/ref, chosen, held out",
    "held/ref_kl": "KL(π‖ref), held out",
}
"""What is drawn of a run that has it, three to a line."""


DISPLACED = -3.0
"""Nats by which the chosen completions have become less likely, beyond which it is told."""


class Files(NamedTuple):
    """What was written, and what there is to say of it."""

    directory: Path
    result: Result
    summary: Summary
    notes: list[str]


def written(
    plan: TextPlan,
    data: Data,
    result: Result,
    arguments: Sequence[str],
    directory: Path,
    score: language.Score | None,
    *,
    told: str = "",
) -> Files:
    """Writes the files. summary.json comes last: where it says finished, everything is there."""
    said = (about_data(data), told or _told_before(directory), _displaced(result), _tied(result), result.failure)
    notes = [note for note in said if note]
    what = facts(arguments, directory)
    summary = {**result.summary, "objective": plan.objective, "examples": len(data.train), "held_out": len(data.held)}
    if result.rows:
        shown = _completions(plan, data, result, directory, score)
        mean, half_width = shown.kl if plan.has_reference else (None, None)
        summary |= {"ref_kl_per_completion": mean, "ref_kl_interval": half_width}
        runs.write(directory / CURVES, report.png(strips(result)))
        page = _page(plan, data, result, summary, what, notes, shown)
        runs.write(directory / PAGE, page)
    runs.write_json(directory / SUMMARY, {"run": what, "notes": notes, "results": [summary]})
    return Files(directory, result, summary, notes)


def _completions(plan: TextPlan, data: Data, result: Result, directory: Path, score: language.Score | None) -> Shown:
    """Before and after, of a run that is over; nothing of one that was interrupted, which is not kept waiting."""
    if result.status != "finished":
        return Shown([], (None, None))
    return completions_shown(plan, directory, data.held or data.train, score)


def _displaced(result: Result) -> str | None:
    """What to say where the preferred completions have themselves become less likely by more than a little."""
    moved = (result.summary.get("held") or {}).get("chosen_moved")
    if moved is None or moved > DISPLACED:
        return None
    return (
        f"The chosen completions have become less likely, too: held-out ones by {report.short(-moved)} nats each. That "
        "goes on as long as the rejected ones fall faster. Fewer --steps, a smaller --learning-rate, or an objective "
        "that holds them (--objective orpo, cpo, apo_zero) keep the policy nearer to what it could say."
    )


def _tied(result: Result) -> str | None:
    """What to say where in no group of the whole run there was anything to compare."""
    shares = [x for row in result.rows for x in row.get("answer/tied") or ()]
    if not shares or min(shares) < 1 or result.complaint is not None:
        return None
    return (
        "In no group did two answers earn differently, so that there was nothing to learn from: the answers to one "
        "prompt are compared with each other. Look at the reward."
    )


def _told_before(directory: Path) -> str:
    """Where the run started from, as its summary has it, if it was written before."""
    try:
        notes = runs.read_json(directory / SUMMARY)["notes"]
    except (runs.RunError, OSError, KeyError):
        return ""
    return next((note for note in notes if str(note).startswith("It starts from")), "")


def print_texts(files: Files, *, json: bool) -> int:
    """Prints the table, or the summary as JSON, and where the files are; 0."""
    directory, result = files.directory, files.result
    if json:
        said = {"directory": str(directory), "results": [runs.without_empty(files.summary)] if result.rows else []}
        print(runs.to_json(said, indent=2))
        return 0
    if result.rows:
        groups = [Group(result.plan.title, [files.summary])]
        print()
        show_table(report.informative(columns(), groups), groups)
        print()
        for note in files.notes:
            print(note)
        print(f"Report: {directory / PAGE}")
        print(f'Speak: polopt sample {directory} --prompt "..."')
        print(f"Also in {directory}/: {CURVES}, {runs.ROWS}, {SUMMARY}")
    return 0


def columns() -> list[Column]:
    """The columns; those that say nothing of a run are left out."""

    def held(name: str) -> Any:
        return lambda s: report.short((s.get("held") or {}).get(name))

    def per_token(s: Summary) -> bool:
        return s.get("ref_kl_per_completion") is not None and "reward" not in (s.get("held") or {})

    def accuracy(s: Summary) -> str:
        return report.percent((s.get("held") or {}).get("accuracy"))

    return [
        Column(
            ("", "algorithm"), lambda s: (s["objective"] or s["algorithm"]) + ("" if s["status"] == "finished" else "*")
        ),
        Column(("", "reward"), lambda s: report.estimate(s.get("reward")), "Of the answers of the last tenth."),
        Column(
            ("", "unscored"),
            lambda s: report.si(s.get("unscored") or None),
            "Answers that nobody could score, of all updates and seeds.",
        ),
        Column(("held-out", "reward"), held("reward"), "One sampled answer to each held-out prompt."),
        Column(("held-out", "loss"), held("loss"), "Of imitation in nats per token, else that of the objective."),
        Column(("held-out", "accuracy"), accuracy, "Share of held-out pairs, or labels, on the right side."),
        Column(("held-out", "margin"), held("margin"), "What the objective makes of the difference, in its own units."),
        Column(
            ("chosen", "moved"),
            held("chosen_moved"),
            "Σ log π/ref of a held-out chosen completion, in nats: below 0 it has become less likely.",
        ),
        Column(
            ("KL", "per token"),
            lambda s: held("ref_kl")(s) if per_token(s) else report.NONE,
            "KL(π‖ref) at the tokens of the held-out examples, in nats per token.",
        ),
        Column(
            ("KL per", "completion"),
            lambda s: report.estimate(s.get("ref_kl_per_completion"), s.get("ref_kl_interval")),
            "KL(π‖ref) in nats of a completion, estimated from the sampled ones in the report, ± half-width of the 95% "
            "interval.",
        ),
        Column(("examples", "/s"), lambda s: report.si(s.get("steps_per_second")), "Without compilation."),
        Column(("wall", "time"), lambda s: report.seconds(s.get("wall_seconds")), "With compilation."),
    ]


def strips(result: Result) -> list[Strip]:
    """The curves of a run."""
    known = {
        name for row in result.rows for name, xs in row.items() if isinstance(xs, list) and xs.count(None) < len(xs)
    }
    hidden = () if result.plan.has_reference else ("held/ref_kl",)
    wanted = [name for name in PANELS if name in known and name not in hidden]
    panels = [Panel(PANELS[name], "examples per seed", [curve(result, name)]) for name in wanted]
    lines = [panels[first : first + 3] for first in range(0, len(panels), 3)]
    return [Strip(result.plan.title if n == 0 else "", line) for n, line in enumerate(lines)]


def _page(
    plan: TextPlan,
    data: Data,
    result: Result,
    summary: Summary,
    what: dict[str, str],
    notes: Sequence[str],
    shown: Shown,
) -> str:
    groups = [Group("", [summary])]
    known = report.informative(columns(), groups)
    term = term_of(plan.algorithm, plan.objective)
    said = [
        report.prose(f.__name__, _recipes.paragraphs_of(f))
        for f in filter(None, (term, way(plan.algorithm, plan.objective)))
    ]
    drawn = [
        report.svg(line, alt=f"Curves: {', '.join(panel.title for panel in line.panels)}.") for line in strips(result)
    ]
    caption = "Line: mean over seeds. Band: lowest to highest seed. Held-out examples are looked at after every chunk."
    figures = [report.figure("", x, caption if n == len(drawn) - 1 else "") for n, x in enumerate(drawn)]
    run = {name: what[name] for name in ("Directory", "Device", "Versions", "Date") if name in what}
    sections = [
        Section("Results", [report.table(known, groups), report.definitions(report.meanings(known))]),
        Section("Curves", figures),
        *shown.sections,
        Section("The data", _about(data)),
        Section("What was run", [report.code(what["Command"]), report.definitions(run)]),
        Section("Sizes and hyperparameters", [report.definitions(_settings(plan))]),
        Section("The objective", said),
    ]
    return report.page(plan.title, f"{what['Date']} · {what['Device']}", sections, notes=notes)


def _about(data: Data) -> list[Any]:
    problems = [report.code("\n".join(map(str, data.problems)))] if data.problems else []
    return [report.prose("", [about_data(data)]), *problems]


def _settings(plan: TextPlan) -> dict[str, str]:
    config = plan.config()
    values = {
        **{name: config[name] for name in config if name not in ("versions", "hyperparameters")},
        **config["hyperparameters"],
    }
    return {flag(name)[2:]: f"{value}" for name, value in values.items() if value not in (None, [])}
