"""`polopt bench`: what its rows say, what it refuses, what it keeps. No test is of a time."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy import stats

from benchmarks import parts
from benchmarks.parts import (
    Case,
    Goal,
    Part,
    Peers,
    Row,
    Wanted,
    as_json,
    estimators,
    from_json,
    learning,
    objectives,
    page,
    seeds,
    solvers,
)
from benchmarks.parts import _part as part_module
from benchmarks.parts.rows import of_numbers, of_times, quartiles
from polopt_jax import runs
from polopt_jax.cli import _bench, main

pytestmark = pytest.mark.filterwarnings("ignore")

ROW = Row("a thing", "a peer", "ms", 1.0, 2.0, 0.5, 0.4, 0.6, 9, 64, "rows", Goal("at most", 0.5), "it differs")


# Rows


def test_a_ratio_is_of_one_round_and_the_median_of_those():
    row = of_times("x", "y", [1, 2, 4, 4], [1, 1, 1, 2], size=3, size_of="rows")
    assert row.ratio == 2  # of 1, 2, 4, 2
    assert (row.low, row.high) == quartiles([1, 2, 4, 2]) == (1.25, 3.5)
    assert (row.ours, row.theirs, row.unit, row.rounds) == (3000.0, 1000.0, "ms", 4)


def test_of_work_it_is_rates_that_are_compared():
    row = of_times("x", "y", [2.0, 2.0], [1.0, 1.0], work=100, unit="decisions/s")
    assert (row.ours, row.theirs, row.ratio, row.unit) == (50, 100, 0.5, "decisions/s")


def test_one_round_has_no_spread_and_a_count_has_none_to_have():
    assert quartiles([3.0]) == (3.0, 3.0)
    row = of_numbers("x", "y", "MB", 1.0, 4.0, goal=Goal("at most", 0.5))
    assert (row.ratio, row.low, row.rounds) == (0.25, None, 1)


@pytest.mark.parametrize(
    ("sense", "ratio", "met"),
    [("at least", 1.199, True), ("at least", 1.194, False), ("at most", 1.204, True), ("at most", 1.21, False)],
)
def test_a_goal_is_met_to_the_digits_that_are_shown(sense, ratio, met):
    assert Goal(sense, 1.2).met(ratio) is met


def test_rows_come_back_from_their_files():
    rows = [ROW, Row("alone", "", "return", 3.0)]
    written = json.loads(runs.to_json(as_json(rows)))
    assert from_json(written) == rows
    assert written[1] == {"what": "alone", "beside": "", "unit": "return", "ours": 3.0}
    assert as_json([ROW._replace(ours=1.23456)])[0]["ours"] == 1.235


# Peers


def test_a_peer_is_there_if_its_python_can_import_what_it_needs(monkeypatch):
    monkeypatch.setitem(part_module.NEEDS, "rejax", ("json", "csv"))
    assert Peers().has("rejax")
    monkeypatch.setitem(part_module.NEEDS, "rejax", ("json", "no_such_module"))
    assert not Peers().has("rejax")
    assert not Peers(python="/no/such/python").has("json")
    assert Peers().has("json")
    monkeypatch.setitem(part_module.NEEDS, "purejaxrl", ("json",))
    assert not Peers().has("purejaxrl")
    assert Peers(purejaxrl="folder").has("purejaxrl")
    assert Peers(purejaxrl="folder").options("purejaxrl") == {"source": "folder"}
    assert Peers(purejaxrl="folder").options("rejax") == {}


def test_a_quick_run_has_the_smallest_sizes_and_three_rounds():
    assert list(Wanted(quick=True).sizes(64, 1024)) == [64]
    assert list(Wanted().sizes(64, 1024)) == [64, 1024]
    assert (Wanted(quick=True).rounds(9), Wanted().rounds(9)) == (3, 9)


# Parts


def test_the_associative_scan_and_the_recursion_by_hand_are_the_same_estimator():
    given = estimators.arrays(40, 8)
    np.testing.assert_allclose(estimators.associative(given), estimators.ours(given), atol=1e-4)
    np.testing.assert_allclose(estimators.by_hand(given), estimators.ours(given), atol=1e-4)


def test_another_answer_is_not_timed(monkeypatch):
    monkeypatch.setattr(estimators, "by_hand", lambda given: given["reward"])
    with pytest.raises(RuntimeError, match="by hand has another answer"):
        estimators.measure(8, 4, 1)
    term, _, kind = objectives.BY_HAND["ppo"]
    monkeypatch.setattr(objectives, "BY_HAND", {"ppo": (term, lambda said, batch: said["mean"].sum(), kind)})
    with pytest.raises(RuntimeError, match="ppo, by hand: "):
        objectives.measure(8, 1)


def test_small_parts_measure_what_they_say():
    """Every form takes part, and so is held to the same answer; memory and flops are counts that can be known."""
    rows = from_json(objectives.measure(16, 1)["rows"])
    assert [row.what for row in rows if row.beside == "by hand"] == list(objectives.BY_HAND)
    assert {row.size for row in rows} == {16 * objectives.STEPS}
    rows = {row.what: row for row in from_json(solvers.composition(64)["rows"])}
    assert rows["clip + value + entropy"].ratio == pytest.approx(1, abs=0.02)
    assert rows["three objectives that each call the network"].ratio > 1.5
    rows = from_json(solvers.products(64, 1)["rows"])
    assert {row.beside for row in rows if row.unit == "ms"} == {"one policy gradient"}
    assert [row.ratio < 1 for row in rows if row.unit == "MB"] == [True, True]


def test_two_backward_passes_are_the_same_product():
    forms = solvers.Forms(32)
    v = forms.gradient(forms.params, forms.batch)
    ours, theirs = forms.product(forms.params, forms.batch, v), forms.twice_backward(forms.params, forms.batch, v)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_interquartile_mean_is_of_the_middle_half_and_its_interval_holds_it():
    scores = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0])
    assert learning.iqm(scores) == stats.trim_mean(scores, 0.25) == 3.5
    low, high = learning.interval(np.stack([scores, scores]), draws=200)
    assert low < 3.5 < high < 1000
    assert learning.interval(np.full((2, 4), 7.0), draws=10) == (7.0, 7.0)
    low, high = learning.ratio_interval(np.full(5, 6.0), np.full(5, 3.0))
    assert (low, high) == (2.0, 2.0)


def test_curves_are_means_of_the_episodes_that_ended():
    said = {"return_sum": [[0.0, 4.0, 1, 1, 1, 5]], "finished": [[0.0, 2.0, 1, 1, 1, 1]]}
    np.testing.assert_allclose(learning.curves(said), [[np.nan, 2, 1, 1, 1, 5]])
    np.testing.assert_allclose(learning.in_the_end(said), [8 / 4])
    np.testing.assert_allclose(learning.in_the_end(said, 4), [6 / 4])


def learnt(returns, seconds, differs="that"):
    """Four seeds that end one episode a slice; the return grows to the end."""
    sums = np.tile(np.linspace(0, returns, learning.SLICES), (4, 1))
    return {"return_sum": sums, "finished": np.ones_like(sums), "first_seconds": seconds, "differs": differs}


def test_what_was_learnt_stands_beside_each_of_the_others():
    last = np.linspace(0, 1, learning.SLICES)[-learning.LAST :].mean()
    said = {"ours": learnt(6.0, 10.0, "this"), "PureJaxRL": learnt(3.0, 20.0), "brax": learnt(2.0, None)}
    end, soon, brax, trpo = learning.rows_of("ant", 100, {**said, learning.TRPO: learnt(12.0, 40.0)})
    assert (end.ours, end.theirs, end.ratio, end.rounds) == pytest.approx((6 * last, 3 * last, 2, 4))
    assert (end.size, end.size_of, end.goal) == (100, "decisions", Goal("at least", 1.0))
    assert end.note == "ours: this; theirs: that"
    assert (soon.ours, soon.size, soon.size_of) == (pytest.approx(6 * last), 10, "seconds")
    half = np.linspace(0, 3, learning.SLICES)[: learning.SLICES // 2][-learning.LAST :].mean()
    assert soon.theirs == pytest.approx(half)  # ten of its twenty seconds
    assert (brax.beside, brax.ratio) == ("brax", pytest.approx(3))  # of one that compiles as it goes no time is known
    assert (trpo.beside, trpo.ratio, trpo.goal) == (learning.TRPO, pytest.approx(0.5), None)


def test_everybody_learns_from_as_many_decisions(monkeypatch):
    monkeypatch.setattr(Peers, "has", lambda self, name: True)
    found = learning.programs(Wanted(Peers("python", "folder")), "ant", 50, 16, 3)
    assert [(p.name, p.module) for p in found] == [
        ("ours", "ours"),
        ("PureJaxRL", "purejaxrl"),
        ("brax's trainer", "brax_trainer"),
        (learning.TRPO, "ours"),
    ]
    alike = [{k: x for k, x in p.options.items() if k not in ("source", "algorithm")} for p in found]
    assert alike == [alike[0]] * 4
    assert (alike[0]["updates"], alike[0]["num_envs"], alike[0]["seeds"]) == (50, 16, 3)
    assert found[1].options["source"] == "folder"
    assert found[3].options["algorithm"] == "trpo"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_part_runs(tmp_path):
    words = ["bench", "--quick", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    result = json.loads((tmp_path / "run" / "bench.json").read_text())
    assert list(result["parts"]) == list(parts.PARTS)
    assert all(case["rows"] for cases in result["parts"].values() for case in cases)


def test_agents_side_by_side_are_compiled_and_counted(monkeypatch):
    monkeypatch.setattr(seeds, "UPDATES", 1)
    monkeypatch.setattr(seeds, "program", lambda n, by_rate=False: lambda: np.zeros(n))
    rows = from_json(seeds.measure(Wanted(quick=True))["rows"])
    assert [(row.size, row.beside, row.unit) for row in rows] == [(8, "one alone", "decisions/s")] * 2


# The command


@pytest.fixture
def small(monkeypatch):
    """A suite of two parts that measure nothing."""
    made = []

    def case(name, **more):
        return Case(name, lambda: made.append(name) or {"rows": as_json([ROW, ROW._replace(size=128)]), **more})

    curve = {"returns": [[1.0, None], [2.0, 3.0]], "seconds": 1.0, "end": [1.0]}
    told = {"env": "ant", "decisions": 100, "curves": {"ours": curve}}
    suite = {
        "first": Part("What comes first.", lambda wanted: [case("one"), case("two")], ("rejax",)),
        "learning": Part("What is learnt.", lambda wanted: [case("ant", learning=told)]),
    }
    monkeypatch.setattr(parts, "PARTS", suite)
    monkeypatch.setattr(Peers, "has", lambda self, name: False)
    return made


def test_it_runs_the_parts_and_says_what_is_not_there(small, tmp_path, capsys):
    assert main(["bench", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert small == ["one", "two", "ant"]
    assert "without rejax" in said.err
    assert "at most 0.5: met" in said.out
    assert "0.50 (0.40 to 0.60, n = 9)" in said.out
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"bench.json", "bench.png", "report.html"}
    shown = (tmp_path / "run" / "report.html").read_text()
    assert "What comes first." in shown
    assert "it differs" in shown
    assert shown.count("<svg") == 2
    assert (
        json.loads((tmp_path / "run" / "bench.json").read_text())["parts"]["first"][0]["rows"][0]["what"] == "a thing"
    )


def test_one_part_by_name_as_json(small, tmp_path, capsys):
    assert main(["bench", "first", "--json", "--out", str(tmp_path / "run")]) == 0
    assert list(json.loads(capsys.readouterr().out)["parts"]) == ["first"]


def test_what_is_done_is_not_done_again(small, tmp_path, capsys):
    assert main(["bench", "first", "--out", str(tmp_path / "run")]) == 0
    assert main(["bench", "--resume", "--out", str(tmp_path / "run")]) == 0
    assert small == ["one", "two", "ant"]
    assert main(["bench", "--quick", "--resume", "--out", str(tmp_path / "run")]) == 2
    assert "quick was False" in capsys.readouterr().err


def test_a_quick_run_shows_no_goals(small, tmp_path, capsys):
    assert main(["bench", "first", "--quick", "--out", str(tmp_path / "run")]) == 0
    assert "met" not in capsys.readouterr().out
    assert "says that everything runs, and nothing of how fast" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frist"], "unknown part 'frist'; did you mean 'first'?"),
        (["--peers-python", "/no/such"], "--peers-python: there is no /no/such"),
        (["--purejaxrl", "/no/such"], "--purejaxrl: there is no /no/such"),
        (["--quick", "--publish"], "--publish keeps what is measured"),
    ],
)
def test_what_makes_no_sense_is_refused(small, words, message, capsys):
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err
    assert small == []


def test_without_a_checkout_it_says_where_the_benchmarks_are(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(_bench.polopt_jax, "__file__", str(tmp_path / "polopt_jax" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert main(["bench"]) == 2
    assert "clone it" in capsys.readouterr().err


def test_the_working_directory_may_be_the_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(_bench.polopt_jax, "__file__", str(tmp_path / "site" / "polopt_jax" / "__init__.py"))
    (tmp_path / "benchmarks" / "parts").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert _bench.suite() is parts


def test_it_is_found_from_any_directory(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "polopt_jax", "bench", "nothing"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 2
    assert "training, learning, objectives" in run.stderr


def test_what_is_published_is_kept_by_device_and_reported(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(page, "REPORT", tmp_path / "report.md")
    assert main(["bench", "first", "--publish", "--out", str(tmp_path / "run")]) == 0
    (path,) = (tmp_path / "results").glob("*/bench/*.json")
    kept = json.loads(path.read_text())
    assert path.stem == kept["benchmark"] == "first"
    assert kept["command"] == "polopt bench first --publish"
    assert len(kept["cases"]) == 2
    report = (tmp_path / "report.md").read_text()
    assert f"## {kept['device']}: first" in report
    assert (
        report.count("| a thing | 64 rows | 1 ms | a peer | 2 ms | 0.50 (0.40 to 0.60, n = 9) | at most 0.5: met |")
        == 2
    )
    assert report.count("- a peer: it differs") == 1


def test_the_report_that_is_kept_is_that_of_the_files():
    if page.REPORT.exists():
        assert page.REPORT.read_text() == page.markdown(page.kept())


def test_a_goal_that_is_missed_is_said_to_be():
    assert page.goal(ROW) == "at most 0.5: met"
    assert page.goal(ROW._replace(ratio=0.51)) == "at most 0.5: MISSED"
    assert page.goal(ROW._replace(goal=None)) == page.goal(ROW._replace(ratio=None)) == "-"


def test_what_was_measured_at_two_sizes_is_drawn_a_curve_for_each_peer():
    rows = [ROW._replace(size=128, ratio=0.7, low=None), ROW, ROW._replace(beside="another"), ROW._replace(what="once")]
    (panel,) = page.over_sizes(rows)
    (curve,) = panel.curves
    assert (panel.title, panel.x_label, curve.label) == ("a thing", "rows", "over a peer")
    assert curve.x.tolist() == [64, 128]
    assert (curve.middle.tolist(), curve.low.tolist(), curve.high.tolist()) == ([0.5, 0.7], [0.4, 0.7], [0.6, 0.6])
    others = [ROW._replace(what="else", beside="another"), ROW._replace(what="else", beside="another", size=128)]
    assert [[c.style for c in panel.curves] for panel in page.over_sizes(rows + others)] == [[0], [1]]
    (alone,) = page.over_sizes(rows[:2])
    assert alone.title == "a thing, over a peer"
