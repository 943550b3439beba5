"""The tables of `docs/findings-study.md`, from a run of `polopt study`.

polopt study --out runs/study                                    (hours on two cores; --resume goes on)
python -m benchmarks.outcomes_study runs/study/study.json        (keeps its worlds, and writes the tables)
python -m benchmarks.outcomes_study                              (the tables alone, from what is kept)
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.outcomes_exact.findings import filled, table
from benchmarks.outcomes_sampled import kept, with_interval
from benchmarks.record import RESULTS
from polopt_jax import study
from polopt_jax.cli import _study_page as page

KEPT = RESULTS / "outcomes" / "study.json"
PAGE = Path(__file__).parents[1] / "docs" / "findings-study.md"
SCALES = tuple(dict.fromkeys(scale for ground in study.GROUNDS.values() for scale in ground.scales))
DOOR, HAZARD, TOLD = "burning-building", "burning-building-hazard", "told-worlds"


def verdicts(results: dict[str, Any]) -> str:
    """What became of the hypotheses."""
    word = {True: "holds", False: "fails", None: "open"}
    rows = [[v.name, v.hypothesis, word[v.holds], v.evidence] for v in study.verdicts(results["worlds"])]
    return table(("", "hypothesis", "verdict", "evidence"), rows)


def shares(results: dict[str, Any]) -> str:
    """What the factors explain of each probability."""
    found = {
        f"{name}, {field}": page.divided(world, field)
        for name, world in results["worlds"].items()
        for field in page.rates(world)
    }
    factors = next(iter(found.values()))
    return table(
        ("factor", *found), [[factor, *(with_interval(x[factor]) for x in found.values())] for factor in factors]
    )


def starts(results: dict[str, Any], world: str) -> str:
    """The policies that training begins with: mean over seeds."""
    found = results["worlds"][world]
    names, rows = [f"P({name})" for name in found["side_effects"]], []
    for scale, objectives in found["scales"].items():
        figures = next(iter(objectives.values()))
        law = study.as_array(figures["begin_law"])
        kl, told = study.as_array(figures["begin_kl"]), study.as_array(figures["forecast"])
        for k, start in enumerate(found["starts"]):
            some = law[k].mean(0)
            rates = [float(study.rate(some, name, found["side_effects"])) for name in names]
            rows.append([start, scale, float(kl[k].max()), float(some[1].sum()), *rates, float(np.nanmean(told[k]))])
    return table(("start", "scale", "largest KL from its teacher", "success", *names, "forecast"), rows)


def matched(results: dict[str, Any], world: str, field: str) -> str:
    """A field at the matched success, objectives and starts by scale."""
    found = study.response(results["worlds"][world], field)
    rows = []
    for k, start in enumerate(found.starts):
        for j, objective in enumerate(found.objectives):
            cells = [with_interval(study.interval(found.values[i, j, k])) for i in range(len(found.scales))]
            rows.append([start, objective, *cells])
    return table(("start", "objective", *(f"scale {scale}" for scale in found.scales)), rows)


def later(results: dict[str, Any], world: str, name: str) -> str:
    """P of a side effect after all updates, objectives and starts by scale."""
    made = results["worlds"][world]
    found = study.response(made, f"P({name})")
    rows = []
    for k, start in enumerate(found.starts):
        for objective in found.objectives:
            cells = []
            for scale in found.scales:
                figures = made["scales"][scale][objective]
                law = study.as_array(figures["final_law"])[k, study.chosen(figures, k)]
                cells.append(with_interval(study.interval(study.rate(law, f"P({name})", made["side_effects"]))))
            rows.append([start, objective, *cells])
    return table(("start", "objective", *(f"scale {scale}" for scale in found.scales)), rows)


def predictors(results: dict[str, Any]) -> str:
    """What of the training prompts tells of the held-out ones."""
    rows = [
        [found.name, with_interval(found.alone), with_interval(found.together)]
        for found in study.predictors(results["worlds"][TOLD])
    ]
    return table(("divergence on training prompts", "R² alone", "coefficient together"), rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "verdicts": verdicts,
    "shares": shares,
    "door-starts": lambda results: starts(results, DOOR),
    "hazard-starts": lambda results: starts(results, HAZARD),
    "door-exploded": lambda results: matched(results, DOOR, "P(exploded)"),
    "hazard-exploded": lambda results: matched(results, HAZARD, "P(exploded)"),
    "door-vase": lambda results: matched(results, DOOR, "P(vase)"),
    "door-end": lambda results: later(results, DOOR, "exploded"),
    "hazard-end": lambda results: later(results, HAZARD, "exploded"),
    "told-starts": lambda results: starts(results, TOLD),
    "told-skip": lambda results: matched(results, TOLD, "P(z)"),
    "told-held": lambda results: matched(results, TOLD, "held-out P(z)"),
    "told-end": lambda results: later(results, TOLD, "skip"),
    "told-predictors": predictors,
}


def beside(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A run beside what is kept, by world, scale and objective; what was run again is replaced.

    Raises ValueError where something but these three was chosen otherwise (seeds, `--quick`): such figures cannot stand
    in one table.
    """
    orders = {"worlds": tuple(study.GROUNDS), "objectives": study.OBJECTIVES, "scales": SCALES}
    chosen = [{name: x for name, x in results["config"].items() if name not in orders} for results in (before, new)]
    if chosen[0] != chosen[1]:
        raise ValueError(f"what is kept was run with {chosen[0]}, this with {chosen[1]}")
    worlds = {name: joined(before["worlds"].get(name), new["worlds"].get(name)) for name in orders["worlds"]}
    worlds = {name: world for name, world in worlds.items() if world}
    made = {
        "worlds": set(worlds),
        "scales": {scale for world in worlds.values() for scale in world["scales"]},
        "objectives": {name for world in worlds.values() for some in world["scales"].values() for name in some},
    }
    config = {what: [name for name in order if name in made[what]] for what, order in orders.items()}
    return {**new, "config": {**new["config"], **config}, "worlds": worlds}


def joined(before: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    """A world with the scales and objectives of a run beside those that are kept."""
    if before is None or new is None:
        return before or new or {}
    scales = {}
    for scale in SCALES:
        both = {**before["scales"].get(scale, {}), **new["scales"].get(scale, {})}
        if both:
            scales[scale] = {name: both[name] for name in study.OBJECTIVES if name in both}
    return {**before, **new, "scales": scales}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", nargs="?", type=Path, help="study.json of a run, to be kept")
    if (path := parser.parse_args().result) is not None:
        new = kept(json.loads(path.read_text()))
        every = beside(json.loads(KEPT.read_text()), new) if KEPT.exists() else new
        KEPT.write_text(json.dumps(every, separators=(",", ":")) + "\n")
    rewrite()


def rewrite() -> None:
    """Puts every table into the page."""
    PAGE.write_text(filled(PAGE.read_text(), json.loads(KEPT.read_text()), TABLES))


if __name__ == "__main__":
    main()
