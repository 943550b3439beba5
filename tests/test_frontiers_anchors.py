"""The anchors of exact mode against their published values, and the page of findings against the committed figures."""

import json
import re

import jax
import pytest

from benchmarks.outcomes_exact import anchors, findings
from benchmarks.record import RESULTS


@pytest.fixture(scope="module")
def found():
    with jax.enable_x64(True):
        return anchors.figures()


def digits(value):
    """Half a unit of the last of at most three digits that were published."""
    text = f"{value:.3g}"
    return 0.5 * 10.0 ** -len(text.partition(".")[2]) if "e" not in text else 0.05 * value


@pytest.mark.parametrize("i", range(6))
def test_outcome_tables(found, i):
    row = found["tables"][i]
    for what in ("pump", "tax"):
        published = row[f"published_{what}"]
        value = row["tax"] if what == "tax" else row["pump_side_effect"]
        if published is not None:
            assert value == pytest.approx(published, abs=digits(published) + 1e-9)
    assert row["feasible"] == (row["table"] != "entailed")


def test_burning_building(found):
    open_building = next(row for row in found["building"] if row["case"] == "open, door, binary")
    for name, values in anchors.BUILDING.items():
        for what, published in values.items():
            assert open_building[name][what] == pytest.approx(published, abs=1.01 * digits(published)), (name, what)


def test_the_corridor_stops_being_feasible(found):
    (corridor,) = (row for row in found["building"] if row["case"] == "corridor, door, binary")
    assert not corridor["ipf"]["feasible"]
    assert 0.8 <= corridor["ipf"]["feasible_up_to"] <= 0.9


def test_best_of_n_is_the_pump(found):
    for row in found["building"]:
        best = row["best_of_n"]
        assert 1 - (1 - row["reference"]["success"]) ** best["n"] == pytest.approx(0.9, abs=1e-12)
        assert best["exploded"] == pytest.approx(row["pump"]["exploded"], abs=1e-12)
        assert best["outcome_kl"] == pytest.approx(row["pump"]["outcome_kl"], abs=1e-12)
        assert best["outcome_kl"] < best["bound"]


@pytest.mark.parametrize("i", range(9))
def test_forks(found, i):
    row = found["forks"][i]
    for what in ("skip", "kl"):
        assert row[what] == pytest.approx(row[f"published_{what}"], rel=0.01)
    published = {0: 1.7e-5, 1: 1.5e-4, 2: 5.7e-4}
    if i in published:
        assert row["kl_per_token"] == pytest.approx(published[i], rel=0.03)


def test_protection(found):
    """At the threshold the optimum is a coin toss; the published figures have one digit."""
    for row in found["protection"]:
        assert row["threshold"] == pytest.approx(row["published"], rel=0.12)
        assert row["hack_at_threshold"] == pytest.approx(0.5, abs=1e-3)
        assert row["hack_at_a_tenth"] < 0.1 < 0.9 < row["hack_at_ten_times"]


def test_the_page_has_the_tables_of_the_committed_figures():
    folder = RESULTS / "outcomes"
    results = {name: json.loads((folder / f"exact-{name}.json").read_text())["figures"] for name in findings.RESULTS_OF}
    page = findings.PAGE.read_text()
    assert set(re.findall(r"<!-- table: ([\w-]+) -->", page)) == set(findings.TABLES)
    assert findings.filled(page, results, findings.TABLES) == page


def test_a_marker_without_a_table_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        findings.filled("<!-- table: nothing --><!-- end -->", {}, findings.TABLES)
