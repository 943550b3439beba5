"""What a finished command leaves: summary.json, curves.png, report.html, and the table on stdout."""

from collections.abc import Sequence
from pathlib import Path

from polopt_jax.cli import _curves, _format, _report, _table
from polopt_jax.cli._build import Reference
from polopt_jax.cli._metrics import Result
from polopt_jax.cli._run_directory import to_json, write


def about_reference(reference: Reference) -> str:
    """How good the token world's reference policy is."""
    kl = _format.short(float(reference.kl))
    return f"The token world starts from a transformer that imitates its language: KL(language‖it) {kl} nats per token."


def write_files(
    directory: Path, title: str, results: Sequence[Result], arguments: Sequence[str], notes: Sequence[str]
) -> None:
    """Writes the files. summary.json comes last: where it says finished, everything is there."""
    what = _report.facts(arguments, directory)
    shown = [result for result in results if result.rows]
    if shown:
        write(directory / "curves.png", _curves.png(shown))
        write(directory / "report.html", _report.render(title, shown, what, notes=notes))
    summary = {"run": what, "notes": list(notes), "results": [result.summary for result in results]}
    write(directory / "summary.json", to_json(summary, indent=2) + "\n")


def print_result(directory: Path, results: Sequence[Result], notes: Sequence[str], *, json: bool) -> None:
    """Prints the table, or the summaries as JSON, and where the files are."""
    shown = [result for result in results if result.rows]
    if json:
        print(to_json({"directory": str(directory), "results": [r.summary for r in shown]}, indent=2))
        return
    if not shown:
        return
    print()
    _table.print_table(shown)
    print()
    for note in notes:
        print(note)
    names = ("report.html", "curves.png", "metrics.jsonl", "summary.json")
    print(f"Report: {directory / names[0]}")
    print(f"Also in {directory}/: {', '.join(names[1:])}")
