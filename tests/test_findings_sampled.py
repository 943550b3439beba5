"""The page of what was found from attempts, against the result file that is kept."""

import json
import re

import numpy as np
import pytest

from benchmarks import outcomes_sampled
from benchmarks.outcomes_exact.findings import filled
from polopt_jax import suite
from polopt_jax.suite import Interval


def test_the_page_has_the_tables_of_the_kept_results():
    page = outcomes_sampled.PAGE.read_text()
    assert re.findall(r"<!-- table: ([\w-]+) -->", page) == list(outcomes_sampled.TABLES)
    results = json.loads(outcomes_sampled.KEPT.read_text())
    assert filled(page, results, outcomes_sampled.TABLES) == page


def test_its_rows_are_readings_at_the_success():
    results = json.loads(outcomes_sampled.KEPT.read_text())
    text = outcomes_sampled.at_success(results, "burning-building", outcomes_sampled.STORY, ["D_z"])
    row = next(line for line in text.splitlines() if line.startswith("| trpo, radius 0.01"))
    figures = results["worlds"]["burning-building"]["methods"]["trpo"]
    at = suite.LEVELS.index(0.9)
    law = np.array([run[at] for run in figures["law"][figures["settings"].index(0.01)]]).sum(1)
    reference = np.array(results["worlds"]["burning-building"]["reference"]).sum(1)
    values = (law * np.log(law / reference)).sum(-1)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[3].split()[0]) == float(f"{values.mean():.3g}")
    assert len(cells) == 2 + len(outcomes_sampled.STORY)
    pump = next(line for line in text.splitlines() if line.startswith("| pump"))
    assert "| 0.166 | 0.792 | 0.681 |" in pump


def test_numbers_that_are_not_there_are_dashes():
    assert outcomes_sampled.with_interval(Interval(0.1234, 0.1, 0.2)) == "0.123 [0.1, 0.2]"
    assert outcomes_sampled.with_interval(Interval(0.1234, float("nan"), float("nan"))) == "0.123"
    assert outcomes_sampled.with_interval(Interval(float("nan"), float("nan"), float("nan"))) is None
    assert outcomes_sampled.with_interval(0.5) == 0.5
    assert outcomes_sampled.with_interval(None) is None
    assert outcomes_sampled.number(float("inf")) is None


def test_what_is_kept_does_not_say_where_it_lay():
    results = {"run": {"Directory": "/home/somebody", "Command": "polopt --out /home", "Date": "today"}, "worlds": {}}
    assert outcomes_sampled.kept(results) == {"run": {"Date": "today"}, "worlds": {}}
    assert outcomes_sampled.with_facts(outcomes_sampled.kept({**results, "worlds": {"boat-race": {}}})) == {
        "worlds": {"boat-race": {"run": {"Date": "today"}}}
    }
    worlds = json.loads(outcomes_sampled.KEPT.read_text())["worlds"]
    facts = {"Date", "Device", "Versions"}
    assert all(facts <= set(world["run"]) <= facts | {"Regions"} | set(suite.METHODS) for world in worlds.values())


def run(worlds, date, methods=("grpo",), **chosen):
    """What is kept of a run of some worlds."""
    results = {
        "run": {"Date": date},
        "config": {"worlds": list(worlds), "methods": list(methods), "seeds": 5, **chosen},
        "worlds": {name: {"about": date, "methods": dict.fromkeys(methods, date)} for name in worlds},
        "signals": {"of": date} if suite.WATCHED in worlds else None,
        "estimators": [date] if "burning-building" in worlds else [],
    }
    return outcomes_sampled.with_facts(results)


def test_a_run_is_kept_beside_those_before_it():
    before = run(("burning-building", suite.WATCHED, "skip-impossible"), "first")
    every = outcomes_sampled.beside(before, run(("boat-race", "skip-impossible", "skip-benign"), "second"))
    order = ["burning-building", suite.WATCHED, "skip-benign", "skip-impossible", "boat-race"]
    assert list(every["worlds"]) == order == every["config"]["worlds"]
    dates = {name: world["run"]["Date"] for name, world in every["worlds"].items()}
    assert [dates[name] for name in order] == ["first", "first", "second", "second", "second"]
    assert every["worlds"]["skip-impossible"]["about"] == "second"
    assert every["signals"] == {"of": "first"}
    assert every["estimators"] == ["first"]
    assert "run" not in every
    assert every["config"]["seeds"] == 5


def test_a_method_is_kept_beside_those_that_were_run_before():
    before = run(("boat-race", "skip-benign"), "first", methods=("trpo", "penalty"))
    every = outcomes_sampled.beside(before, run(("boat-race", "table-means"), "second", methods=("bounded", "penalty")))
    assert every["config"]["methods"] == ["trpo", "bounded", "penalty"]
    race = every["worlds"]["boat-race"]
    assert race["methods"] == {"trpo": "first", "bounded": "second", "penalty": "second"}
    assert list(race["methods"]) == ["trpo", "bounded", "penalty"], "in the order of the benchmark"
    assert race["run"] == {"Date": "first", "bounded": "second", "penalty": "second"}
    assert race["about"] == "first"
    assert every["worlds"]["skip-benign"] == before["worlds"]["skip-benign"]
    assert every["worlds"]["table-means"]["run"] == {"Date": "second"}
    again = outcomes_sampled.beside(every, run(("boat-race",), "third", methods=("trpo", "bounded", "penalty")))
    assert again["worlds"]["boat-race"]["run"] == {"Date": "third"}


def test_signals_and_estimators_are_of_the_last_run_that_has_them():
    before = run(("burning-building", suite.WATCHED), "first")
    every = outcomes_sampled.beside(before, run(("burning-building", suite.WATCHED), "second"))
    assert every["signals"] == {"of": "second"}
    assert every["estimators"] == ["second"]


def test_a_run_that_was_chosen_otherwise_is_not_kept():
    with pytest.raises(ValueError, match=r"'quick': True"):
        outcomes_sampled.beside(run(("boat-race",), "first", quick=False), run(("boat-race",), "second", quick=True))


def test_the_command_keeps_the_worlds_of_a_file(monkeypatch, tmp_path):
    kept, page, made = tmp_path / "sampled.json", tmp_path / "page.md", tmp_path / "outcomes.json"
    page.write_text("nothing")
    monkeypatch.setattr(outcomes_sampled, "KEPT", kept)
    monkeypatch.setattr(outcomes_sampled, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["outcomes_sampled", str(made)])
    for world in ("boat-race", "skip-benign"):
        results = {
            "run": {"Date": world, "Directory": "/home"},
            "config": {"worlds": [world], "methods": []},
            "worlds": {world: {}},
        }
        made.write_text(json.dumps({**results, "signals": None, "estimators": []}))
        outcomes_sampled.main()
    worlds = json.loads(kept.read_text())["worlds"]
    assert worlds == {world: {"run": {"Date": world}} for world in ("skip-benign", "boat-race")}
