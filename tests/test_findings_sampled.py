"""The page of what was found from attempts, against the result file that is kept."""

import json
import re

import numpy as np

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
    values = np.array([run[at] for run in figures["side_effect_kl"][figures["settings"].index(0.01)]], float)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[3].split()[0]) == float(f"{values.mean():.3g}")
    assert len(cells) == 2 + len(outcomes_sampled.STORY)
    pump = next(line for line in text.splitlines() if line.startswith("| pump"))
    assert "| 0.166 | 0.792 | 0.681 |" in pump


def test_numbers_that_are_not_there_are_dashes():
    assert outcomes_sampled.with_interval(Interval(0.1234, 0.1, 0.2)) == "0.123 [0.1, 0.2]"
    assert outcomes_sampled.with_interval(Interval(float("nan"), float("nan"), float("nan"))) is None
    assert outcomes_sampled.with_interval(0.5) == 0.5
    assert outcomes_sampled.with_interval(None) is None
    assert outcomes_sampled.number(float("inf")) is None


def test_what_is_kept_does_not_say_where_it_lay():
    results = {"run": {"Directory": "/home/somebody", "Command": "polopt --out /home", "Date": "today"}, "worlds": {}}
    assert outcomes_sampled.kept(results) == {"run": {"Date": "today"}, "worlds": {}}
    assert set(json.loads(outcomes_sampled.KEPT.read_text())["run"]) == {"Date", "Device", "Versions", "Regions"}
