"""The tables of `docs/findings.md`, from the committed JSON: what stands between a table's marker and its end."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "findings.md"
EFFECTS = ("exploded", "vase")


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *[[show(x) for x in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(x: Any) -> str:
    """A number to three digits, words as they are, a dash for nothing."""
    if x is None:
        return "-"
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, float):
        x = 0.0 if abs(x) < 5e-13 else x
        return f"{x:.3g}" if x == 0 or 1e-3 <= abs(x) < 1e4 else f"{x:.1e}"
    return str(x)


def span(values: list[float]) -> str:
    """The lowest and the highest of some settings."""
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def anchors_tables(results: dict[str, Any]) -> str:
    (found,) = results["anchors"]["anchors"]
    keys = ("table", "pump_side_effect", "published_pump", "ipf_side_effect", "tax", "published_tax", "feasible")
    head = ("table", "pump q(z=1)", "published", "IPF q(z=1)", "tax, nats", "published", "IPF feasible")
    return table(head, [[row[key] for key in keys] for row in found["tables"]])


def anchors_building(results: dict[str, Any]) -> str:
    (found,) = results["anchors"]["anchors"]
    rows = []
    for case in found["building"]:
        for name in ("reference", "pump", "ipf"):
            row = case[name]
            values = [
                row[key] for key in ("success", "exploded", "vase", "side_effect_kl", "conditional_kl", "outcome_kl")
            ]
            rows.append([case["case"].removesuffix(", binary"), name, *values, row.get("feasible_up_to")])
    head = ("building", "row", "success", "P(x)", "P(v)", "D_z", "D_z given s", "D_out", "IPF feasible up to")
    return table(head, rows)


def anchors_best(results: dict[str, Any]) -> str:
    (found,) = results["anchors"]["anchors"]
    keys = ("n", "exploded", "outcome_kl", "bound")
    rows = [
        [row["case"].removesuffix(", binary"), *(row["best_of_n"][key] for key in keys)] for row in found["building"]
    ]
    return table(("building", "n", "P(x)", "D_out", "log n - (n - 1) / n"), rows)


def anchors_forks(results: dict[str, Any]) -> str:
    (found,) = results["anchors"]["anchors"]
    keys = ("p0", "logits", "skip", "published_skip", "kl", "published_kl", "kl_per_token")
    head = ("p0", "logits added", "p'", "published", "KL, nats", "published", "KL per token of 500")
    return table(head, [[row[key] for key in keys] for row in found["forks"]])


def anchors_protection(results: dict[str, Any]) -> str:
    (found,) = results["anchors"]["anchors"]
    keys = ("beta", "threshold", "published", "hack_at_a_tenth", "hack_at_threshold", "hack_at_ten_times")
    head = ("beta", "threshold of p0", "published", "P(hack) at p0 / 10", "at p0", "at 10 p0", "ln(1/p0)")
    # 1e-22 is a number here, where elsewhere it is rounding
    cells = lambda row: [f"{row[k]:.1e}" if row[k] < 1e-12 else row[k] for k in (*keys, "nats_for_certainty")]  # noqa: E731
    return table(head, [cells(row) for row in found["protection"]])


def at(method: dict[str, Any], success: float) -> list[tuple[Any, dict[str, Any]]]:
    """(setting, row) of every setting of a method at a success."""
    return [(entry["setting"], row) for entry in method["sweep"] for row in entry["rows"] if row["success"] == success]


def overview(results: dict[str, Any], key: str) -> str:
    """One figure at success 0.9: methods by cases, the range over the settings that reach it."""
    cases = results["building"]
    anchors = {row["case"]: row for row in results["anchors"]["anchors"][0]["building"]}
    rows = []
    for name in ("reference", "pump", "ipf"):
        values = [anchors[case.replace("distance", "binary")][name] for case in cases]
        if key not in values[0]:
            continue
        rows.append([name, *[value.get(key) if value.get("feasible", True) else "infeasible" for value in values]])
    for i, first in enumerate(next(iter(cases.values()))):
        row = [first["method"]]
        for methods in cases.values():
            found = at(methods[i], 0.9)
            values = [r[key] for _, r in found if r["reached"] and key in r]
            best = max(r["best"] for _, r in found)
            some = "" if len(values) == len(found) else f" ({len(values)} of {len(found)})"
            row.append(span(values) + some if values else None if key == "updates" else f"never, best {best:.3g}")
        rows.append(row)
    return table(("method", *cases), rows)


def frontier(results: dict[str, Any], case: str) -> str:
    """Every setting of every method at success 0.9 in one case."""
    keys = (*EFFECTS, "side_effect_kl", "conditional_kl", "outcome_kl", "trajectory_kl", "action_kl")
    rows = []
    for method in results["building"][case]:
        for setting, row in at(method, 0.9):
            words = (
                f"{method['method']}, {method['setting']} {show(setting)}" if setting is not None else method["method"]
            )
            if row["reached"]:
                rows.append([words, *[row[key] for key in keys], row.get("updates"), row["jump"]])
            else:
                rows.append([words, f"never, best {row['best']:.3g}", *[None] * 8])
    head = (
        "method and setting",
        "P(x)",
        "P(v)",
        "D_z",
        "D_z given s",
        "D_out",
        "D_traj",
        "D_action",
        "updates",
        "jump",
    )
    return table(head, rows)


def successes(results: dict[str, Any], case: str) -> str:
    """D_z and P(x) at all three successes: the middle setting of each method."""
    rows = []
    for method in results["building"][case]:
        middle = method["sweep"][len(method["sweep"]) // 2]
        cells = []
        for row in middle["rows"]:
            cells += [row["exploded"], row["side_effect_kl"]] if row["reached"] else [f"best {row['best']:.3g}", None]
        rows.append([method["method"], middle["setting"], *cells])
    head = ("method", "setting", *[f"{what} at {s}" for s in (0.5, 0.8, 0.9) for what in ("P(x)", "D_z")])
    return table(head, rows)


def orderings(results: dict[str, Any]) -> str:
    """Policy gradient, TRPO and PPO by explosions at 0.9, at the setting in the middle of each sweep."""
    rows = []
    for case, methods in results["building"].items():
        found = {}
        for method in methods:
            if method["method"] in ("policy gradient", "trpo", "ppo"):
                _, row = at(method, 0.9)[1]
                if row["reached"]:
                    found[method["method"]] = row["exploded"]
        order = sorted(found, key=found.__getitem__)
        rows.append([case, " < ".join(f"{name} {show(found[name])}" for name in order) or "never"])
    return table(("building", "P(explosion) at success 0.9"), rows)


def failures(results: dict[str, Any], case: str) -> str:
    """Where the held side effects went: among successes and among failures."""
    keys = ("exploded", "exploded_given_failure", "vase", "vase_given_success", "vase_given_failure")
    wanted = {"policy gradient": 1, "trpo": 1, "region, marginal": 3, "region, conditional": 2}
    wanted |= {"price": 2, "price, one-sided": 2, "penalty": 4}
    rows = []
    for method in results["building"][case]:
        if method["method"] in wanted:
            setting, row = at(method, 0.9)[wanted[method["method"]]]
            words = f"{method['method']}, {method['setting']} {show(setting)}"
            rows.append([words, *([row[key] for key in keys] if row["reached"] else [None] * len(keys))])
    head = ("method", "P(x)", "P(x given failure)", "P(v)", "P(v given success)", "P(v given failure)")
    return table(head, rows)


def trained_tables(results: dict[str, Any]) -> str:
    """q(z=1) at success 0.9 of every method in every outcome table."""
    tables = {name: found[0]["rows"] for name, found in results["tables"].items()}
    rows = []
    for i, first in enumerate(next(iter(tables.values()))):
        row = [first["method"]]
        for rows_of in tables.values():
            here = rows_of[i]
            if here.get("feasible", True) is False:
                row.append("infeasible")
            elif here.get("reached", True):
                row.append(here["side_effect"])
            else:
                row.append(f"never, best {here['best']:.3g}")
        rows.append(row)
    return table(("method", *tables), rows)


def contaminated(results: dict[str, Any]) -> str:
    """q(z=1) at success 0.9, from references without and with the contamination."""
    parts = {name: found[0]["rows"] for name, found in results["neighbours"].items() if name.startswith("contam")}
    clean = {name: results["tables"][name.removeprefix("contaminated ")][0]["rows"] for name in parts}
    rows = []
    for i, first in enumerate(next(iter(parts.values()))):
        row = [first["method"]]
        for name, found in parts.items():
            before = {row["method"]: row for row in clean[name]}.get(first["method"])
            row += [before and before["side_effect"], found[i]["side_effect"]]
        rows.append(row)
    head = [x for name in parts for x in (name.removeprefix("contaminated "), "contaminated")]
    return table(("method", *head), rows)


def way_out(results: dict[str, Any]) -> str:
    """What becomes of a task that has no honest way, where leaving it alone pays something."""
    parts = {name: found[0]["rows"] for name, found in results["neighbours"].items() if name.startswith("way out")}
    rows = [
        [found[0]["method"], *[row[key] for row in found for key in ("success_in_the_end", "left_alone_in_the_end")]]
        for found in zip(*parts.values(), strict=True)
    ]
    head = [f"{what}, if that pays {name.split()[-1]}" for name in parts for what in ("hacks", "leaves it")]
    return table(("method", *head), rows)


def soft_best(results: dict[str, Any]) -> str:
    """The temperature that reaches success 0.9."""
    (found,) = results["neighbours"]["soft best of n"]
    return table(("table", "n", "temperature"), [[row["table"], row["n"], row["temperature"]] for row in found["rows"]])


def mistaken(part: str, by: str, of: tuple[str, ...]) -> Callable[[dict[str, Any]], str]:
    """Figures of a reward with an error, one column for each law of the error."""

    def found(results: dict[str, Any]) -> str:
        rows = results["neighbours"][part][0]["rows"]
        laws = list(dict.fromkeys(row["error"] for row in rows))
        cells = {(row["error"], row[by]): [row[name] for name in of] for row in rows}
        values = dict.fromkeys(row[by] for row in rows)
        head = (by, *[f"{name}, {law}" for law in laws for name in of])
        return table(head, [[value, *[x for law in laws for x in cells[law, value]]] for value in values])

    return found


def impossible(results: dict[str, Any]) -> str:
    """What becomes of a task that has no honest way."""
    rows = []
    for row in results["tables"]["impossible"][0]["rows"]:
        if "success_in_the_end" in row:
            reached = row["updates"] if row["reached"] else None
            rows.append([row["method"], reached, row["best"], row["success_in_the_end"], row["side_effect_in_the_end"]])
    return table(("method", "updates to success 0.9", "best success", "success in the end", "P(z) in the end"), rows)


def odds_map(results: dict[str, Any]) -> str:
    """The odds at each success, everywhere they were reckoned."""
    rows = []
    for part, (found,) in results["odds"].items():
        if part == "kl penalty":
            continue
        for row in found["rows"]:
            rows.append([row["row"], *row["odds"]])
    return table(("what", "odds at 0.5", "at 0.9", "at 0.99"), rows)


def odds_kl(results: dict[str, Any]) -> str:
    """A KL penalty's odds on the way and in the end."""
    keys = ("row", "highest_odds", "odds_in_the_end", "success_in_the_end", "optimum_odds", "optimum_success")
    head = ("what", "highest odds", "odds in the end", "success in the end", "odds at the optimum", "its success")
    return table(head, [[row[key] for key in keys] for row in results["odds"]["kl penalty"][0]["rows"]])


RESULTS_OF = ("anchors", "odds", "tables", "neighbours", "building")
OPEN, HAZARD = "open, door, binary", "open, hazard, binary"
TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "anchors-tables": anchors_tables,
    "anchors-building": anchors_building,
    "anchors-best-of-n": anchors_best,
    "anchors-forks": anchors_forks,
    "anchors-protection": anchors_protection,
    "exploded": lambda results: overview(results, "exploded"),
    "vase": lambda results: overview(results, "vase"),
    "side-effect-kl": lambda results: overview(results, "side_effect_kl"),
    "action-kl": lambda results: overview(results, "action_kl"),
    "updates": lambda results: overview(results, "updates"),
    "outcome-kl": lambda results: overview(results, "outcome_kl"),
    "orderings": orderings,
    "frontier-open": lambda results: frontier(results, OPEN),
    "successes-open": lambda results: successes(results, OPEN),
    "failures-open": lambda results: failures(results, OPEN),
    "failures-hazard": lambda results: failures(results, HAZARD),
    "trained-tables": trained_tables,
    "impossible": impossible,
    "contaminated": contaminated,
    "way-out": way_out,
    "soft-best-of-n": soft_best,
    "mistaken-tilt": mistaken("tilt", "kl", ("reward", "utility")),
    "mistaken-alone": mistaken("error alone", "errors", ("greatest", "kl")),
    "odds": odds_map,
    "odds-kl": odds_kl,
}


def rewrite(folder: Path) -> None:
    """Puts every table into the page, where all results are there."""
    paths = {name: folder / f"exact-{name}.json" for name in RESULTS_OF}
    if not all(path.exists() for path in (*paths.values(), PAGE)):
        return
    results = {name: json.loads(path.read_text())["figures"] for name, path in paths.items()}
    PAGE.write_text(filled(PAGE.read_text(), results, TABLES))


def filled(page: str, results: dict[str, Any], tables: Mapping[str, Callable[[dict[str, Any]], str]]) -> str:
    """The page with its tables renewed. Raises KeyError for a marker that names none."""

    def renewed(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n\n{tables[match[1]](results)}\n\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w-]+) -->.*?<!-- end -->", renewed, page, flags=re.DOTALL)
