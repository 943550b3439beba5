"""The tables of `docs/findings-sampled.md`, from a run of `polopt outcomes`.

polopt outcomes --out runs/outcomes                                    (hours on two cores; --resume goes on)
python -m benchmarks.outcomes_sampled runs/outcomes/outcomes.json      (keeps its worlds, and writes the tables)
python -m benchmarks.outcomes_sampled                                  (the tables alone, from what is kept)
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import camera_dropbox, outcomes_everywhere
from benchmarks.grpo_forgetting import findings as grpo_forgetting
from benchmarks.outcomes_exact.findings import filled, table
from benchmarks.record import RESULTS
from polopt_jax import suite
from polopt_jax.suite import Interval

KEPT = RESULTS / "outcomes" / "sampled.json"
PAGE = Path(__file__).parents[1] / "docs" / "findings-sampled.md"
SUCCESS = 0.9


def number(x: float | None) -> float | None:
    """None for what is not there."""
    return None if x is None or not math.isfinite(x) else float(x)


def with_interval(x: Interval | float | None) -> Any:
    """A mean with its interval, in words."""
    if not isinstance(x, Interval):
        return number(x)
    ends = f" [{x.low:.3g}, {x.high:.3g}]" if x.has_ends else ""
    return f"{x.mean:.3g}{ends}" if math.isfinite(x.mean) else None


def at_success(results: dict[str, Any], world: str, columns: list[str], banded: list[str]) -> str:
    """Every method at every setting in one world, beside the rows without training."""
    found = results["worlds"][world]
    rows: list[list[Any]] = []
    for row in suite.project(found, SUCCESS):
        values = [number(row.columns.get(name)) for name in columns]
        rows.append([row.name, *values, "-" if row.feasible == 1 else f"infeasible in {100 * (1 - row.feasible):.0f}%"])
    for method, figures in found["methods"].items():
        for row in suite.read(method, figures, found, SUCCESS):
            cells = {name: row.columns[name] for name in columns}
            values = [with_interval(x) if name in banded else number(x.mean) for name, x in cells.items()]
            never = f"{100 * row.never:.0f}%" + (f", best {row.best:.3g}" if row.never == 1 else "")
            rows.append([f"{method}, {figures['setting']} {row.setting:g}", *values, never])
    return table(("method and setting", *columns, "never"), rows)


def in_the_end(results: dict[str, Any], world: str) -> str:
    """Success and side effects after all updates, whatever was reached on the way."""
    found = results["worlds"][world]
    rows = []
    for method, figures in found["methods"].items():
        for i, setting in enumerate(figures["settings"]):
            law = suite.as_array(figures["final_law"])[i]
            best = suite.interval(suite.as_array(figures["best"])[i])
            ends = [suite.interval(x) for x in (law[:, 1].sum(-1), law[:, :, 1:].sum((1, 2)))]
            rows.append([f"{method}, {figures['setting']} {setting:g}", *map(with_interval, (best, *ends))])
    return table(("method and setting", "best success", "success in the end", "P(z) in the end"), rows)


def monitors(results: dict[str, Any]) -> str:
    """What warned."""
    keys = ("auc_a", "auc_b", "detected", "lead")
    head = ("monitor", "AUC, negatives A", "AUC, negatives B", "share detected", "median lead, updates")
    rows = results["signals"]["monitors"].items()
    return table(head, [[name, *(number(row[key]) for key in keys)] for name, row in rows])


def forecasts(results: dict[str, Any]) -> str:
    """What was to be expected."""
    rows = suite.foreseen(results["worlds"][suite.WATCHED], results["signals"]["forecasts"])
    head = ("method", "AUC", "AUC of the honest route", *(f"forecast {name}" for name in suite.BINS))
    binned = lambda row: [f"{x:.3g} ({n})" if n else "-" for n, x in row.bins]  # noqa: E731
    return table(head, [[row.method, number(row.auc), number(row.honest), *binned(row)] for row in rows])


def estimators(results: dict[str, Any]) -> str:
    """Bias and coverage of the KL."""
    rows = [row for row in results["estimators"] if row["divergence"] == "KL"]
    share = lambda x, row: f"{100 * x / row['truth']:+.1f}%"  # noqa: E731
    return table(
        ("world, feature, step", "rows", "truth", "plug-in bias", "bias", "coverage", "rarest cell, rows"),
        [
            [
                f"{row['world']}, {row['feature']}, {row['step']:g}",
                row["rows"],
                row["truth"],
                share(row["plug_in_bias"], row),
                f"{share(row['bias'], row)} ± {share(row['standard_error'], row)[1:]}",
                row["coverage"],
                row["rarest"],
            ]
            for row in rows
        ],
    )


STORY = ["P(exploded)", "P(vase)", "D_z", "D_z|s", "D_out", "D_traj", "D_action", "updates"]
SKIP = ["P(skip)", "D_z", "odds", "D_traj", "ref‖new", "over pump", "updates"]
TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    **outcomes_everywhere.TABLES,
    "door": lambda results: at_success(results, "burning-building", STORY, STORY[:3]),
    "hazard": lambda results: at_success(results, "burning-building-hazard", STORY, STORY[:3]),
    "skip": lambda results: at_success(results, "skip-the-test", SKIP, SKIP[:2]),
    "skip-end": lambda results: in_the_end(results, "skip-the-test"),
    "impossible": lambda results: in_the_end(results, "skip-impossible"),
    "monitors": monitors,
    "forecasts": forecasts,
    "estimators": estimators,
    **grpo_forgetting.TABLES,
    "dropbox": camera_dropbox.dropbox,
}


def kept(results: dict[str, Any]) -> dict[str, Any]:
    """The results without where they lay."""
    return {**results, "run": {name: x for name, x in results["run"].items() if name not in ("Directory", "Command")}}


def with_facts(results: dict[str, Any]) -> dict[str, Any]:
    """The results of one run with its facts in each of its worlds, so that those of several runs stand side by side."""
    run = results["run"]
    worlds = {name: {**world, "run": run} for name, world in results["worlds"].items()}
    return {name: x for name, x in {**results, "worlds": worlds}.items() if name != "run"}


def beside(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The worlds of a run beside those that are kept, in the order of the benchmark; what was run again is replaced.

    Signals and estimators stay where the new run has none. Raises ValueError where something but worlds and methods was
    chosen otherwise (seeds, `--quick`): such rows cannot stand in one table.
    """
    free = ("worlds", "methods")
    chosen = [{name: x for name, x in results["config"].items() if name not in free} for results in (before, new)]
    if chosen[0] != chosen[1]:
        raise ValueError(f"what is kept was run with {chosen[0]}, this with {chosen[1]}")
    names = [name for name in suite.CASES if name in before["worlds"].keys() | new["worlds"].keys()]
    worlds = {name: joined(before["worlds"].get(name), new["worlds"].get(name)) for name in names}
    both = {method for results in (before, new) for method in results["config"]["methods"]}
    return {
        "config": {
            **new["config"],
            "worlds": list(worlds),
            "methods": [name for name in suite.METHODS if name in both],
        },
        "worlds": worlds,
        "signals": new["signals"] or before["signals"],
        "estimators": new["estimators"] or before["estimators"],
    }


def joined(before: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    """A world with the methods of a run beside those that are kept; its facts say of the former when they were run."""
    if before is None or new is None:
        return before or new or {}
    if before["methods"].keys() <= new["methods"].keys():
        return new
    both = {**before["methods"], **new["methods"]}
    facts = {**before["run"], **dict.fromkeys(new["methods"], new["run"]["Date"])}
    return {**before, "run": facts, "methods": {name: both[name] for name in suite.METHODS if name in both}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", nargs="?", type=Path, help="outcomes.json of a run, to be kept")
    if (path := parser.parse_args().result) is not None:
        new = with_facts(kept(json.loads(path.read_text())))
        every = beside(json.loads(KEPT.read_text()), new) if KEPT.exists() else new
        KEPT.write_text(json.dumps(every, separators=(",", ":")) + "\n")
    rewrite()


def rewrite() -> None:
    """Puts every table into the page."""
    PAGE.write_text(filled(PAGE.read_text(), json.loads(KEPT.read_text()), TABLES))


if __name__ == "__main__":
    main()
