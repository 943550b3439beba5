"""The tables of the puzzle, from what is kept."""

import json
from collections.abc import Callable
from typing import Any

from benchmarks.outcomes_exact.findings import table
from benchmarks.record import RESULTS

KEPT = RESULTS / "outcomes" / "grpo-forgetting.json"


def exact(kept: dict[str, Any]) -> str:
    """The flows, in all worlds at once; beside it how many of those alone lose their honesty."""
    keys = ("skip at .9", "highest", "success there", "honest", "skip", "success")
    head = ("ascent on", "by", "P(skip) at success .9", "highest P(honest)", "success there")
    head += ("P(honest) in the end", "P(skip)", "success", "lost alone, depth 4", "depth 1")
    rows = []
    for row in kept["exact"]:
        alone = [f"{row['alone'][depth]['lost']} of {row['alone'][depth]['learnt']}" for depth in ("4", "1")]
        rows.append([row["parts"], row["way"], *(row["together"][key] for key in keys), *alone])
    return table(head, rows)


def rests(kept: dict[str, Any]) -> str:
    """The law against exact gradients."""
    head = ("attempts of a group", "β", "success", "P(skip)", "P(honest)", "largest deviation of a world")
    keys = ("beta", "success", "skip", "honest", "away")
    return table(head, [[str(row["size"] or "not divided"), *(row[key] for key in keys)] for row in kept["rests"]])


def together(kept: dict[str, Any]) -> str:
    """From attempts, with the notebook's settings."""
    keys = ("skip at .9", "highest", "success there", "when", "half lost", "honest")
    head = ("recipe", "P(skip) at success .9", "highest P(honest)", "success there", "at update", "half lost at")
    head += ("P(honest) in the end", "of the seeds", "P(skip)", "success")
    rows = []
    for row in kept["together"]:
        seeds = f"{row['lowest honest']:.3g} to {row['highest honest']:.3g}"
        rows.append([row["recipe"], *(row[key] for key in keys), seeds, row["skip"], row["success"]])
    return table(head, rows)


def alone(kept: dict[str, Any]) -> str:
    """From attempts, each world by itself."""
    head = ("recipe", "depth", "highest P(honest)", "P(honest) in the end", "P(skip)", "success", "lost of learnt")
    keys = ("highest", "honest", "skip", "success")
    rows = [
        [row["recipe"], depth, *(row[depth][key] for key in keys), f"{row[depth]['lost']} of {row[depth]['learnt']}"]
        for row in kept["alone"]
        for depth in ("4", "1")
    ]
    return table(head, rows)


def warned(kept: dict[str, Any]) -> str:
    """What was to be seen."""
    keys = ("auc_same", "auc_twins", "auc_deep_twins", "detected", "lead")
    head = ("signal", "AUC, runs that keep it", "AUC, benign twins", "of them depth 4", "share detected")
    head += ("median lead, updates",)
    return table(head, [[name, *(row[key] for key in keys)] for name, row in kept["warnings"]["signals"].items()])


def _of_kept(read: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], str]:
    return lambda _: read(json.loads(KEPT.read_text())["figures"])


TABLES = {
    "forgetting-exact": _of_kept(exact),
    "forgetting-rests": _of_kept(rests),
    "forgetting-together": _of_kept(together),
    "forgetting-alone": _of_kept(alone),
    "forgetting-warnings": _of_kept(warned),
}
"""They read what is kept, whatever they are given."""
