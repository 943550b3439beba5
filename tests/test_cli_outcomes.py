"""`polopt outcomes`: what it runs, keeps, shows and refuses."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from polopt_jax import suite
from polopt_jax.cli import _outcomes_page as page
from polopt_jax.cli import _pieces, main
from polopt_jax.cli._outcomes import _judged, plan
from polopt_jax.cli._piece_options import Outcomes


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    directory = tmp_path_factory.mktemp("outcomes") / "first"
    words = ["outcomes", "--quick", "--worlds", "table-means", "--methods", "grpo", "region", "--seeds", "2"]
    assert main([*words, "--out", str(directory)]) == 0
    return directory


@pytest.fixture
def figures(done):
    return json.loads((done / "outcomes.json").read_text())


def again(done, *words):
    base = ["outcomes", "--quick", "--worlds", "table-means", "--methods", "grpo", "region", "--seeds", "2"]
    return main([*base, "--out", str(done), "--resume", *words])


def side_effect_kl(world, method):
    """D_z [R, L] of the first setting, from the laws that are kept."""
    law = np.array(world["methods"][method]["law"][0], float)
    after, before = (x / x.sum((-2, -1), keepdims=True) for x in (law, np.array(world["reference"])[:, None]))
    return (after.sum(-2) * np.log(after.sum(-2) / before.sum(-2))).sum(-1)


def no_runs(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("nothing is left to run")

    monkeypatch.setattr(suite, "measure", refuse)
    monkeypatch.setattr(suite, "monitors", refuse)


def test_what_it_leaves(done, figures):
    assert {path.name for path in done.iterdir()} >= {"outcomes.json", "report.html", "frontier.png", "config.json"}
    assert figures["config"] == {
        "format": 1,
        "worlds": ["table-means"],
        "methods": ["grpo", "region"],
        "seeds": 2,
        "quick": True,
    }
    world = figures["worlds"]["table-means"]
    assert set(world["methods"]) == {"grpo", "region"}
    assert world["methods"]["grpo"]["settings"] == [0.1], "quick runs the middle of the sweep"
    assert (world["methods"]["grpo"]["labels"], world["methods"]["region"]["labels"]) == (False, True)
    np.testing.assert_allclose(world["reference"][0], [[0.968, 0.002], [0.02, 0.01]], rtol=1e-3)
    assert np.shape(world["reference"]) == (2, 2, 2)
    assert figures["signals"] is None, "no watched world was asked for"
    assert figures["estimators"] == [], "nor the story, with which estimators are judged"
    assert figures["run"]["Command"].startswith("polopt outcomes --quick")


def test_its_page_needs_nothing_from_outside(done):
    text = (done / "report.html").read_text()
    assert "table-means" in text
    assert "the action taken" not in text
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text) == []
    assert "<svg" in text
    for name in ("reference", "pump", "ipf", "grpo", "region"):
        assert f">{name}<" in text
    assert (done / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_shown_again_without_running(done, monkeypatch, capsys):
    no_runs(monkeypatch)
    assert again(done) == 0
    said = capsys.readouterr().out
    assert "table-means, at success 0.9" in said
    line = next(line for line in said.splitlines() if line.startswith("pump")).split()
    assert abs(float(line[1]) - 0.3) < 2e-3
    assert "Report:" in said


def test_json_has_every_reading(done, figures, monkeypatch, capsys):
    no_runs(monkeypatch)
    assert again(done, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    rows = {row.get("name") or row["method"]: row for row in said["worlds"]["table-means"]["0.9"]}
    assert set(rows) == {"reference", "pump", "ipf", "grpo", "region"}
    at = suite.LEVELS.index(0.9)
    expected = side_effect_kl(figures["worlds"]["table-means"], "grpo")[:, at].mean()
    np.testing.assert_allclose(rows["grpo"]["columns"]["D_z"]["mean"], expected, rtol=1e-6)
    assert rows["pump"]["columns"]["P(side_effect)"] == pytest.approx(0.3, abs=2e-3)
    assert (said["signals"], said["estimators"]) == (None, []), "neither was asked for"


def test_against_an_earlier_run(done, figures, monkeypatch, capsys, tmp_path):
    no_runs(monkeypatch)
    earlier = tmp_path / "old.json"
    methods = figures["worlds"]["table-means"]["methods"]
    law = np.asarray(methods["grpo"]["law"])
    methods["grpo"]["law"] = (
        0.7 * law + 0.3 * np.asarray(figures["worlds"]["table-means"]["reference"])[:, None]
    ).tolist()
    earlier.write_text(json.dumps(figures))
    assert again(done, "--against", str(earlier)) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip() == "table-means")
    grpo, region = (next(line for line in lines[at:] if line.startswith(name)) for name in ("grpo", "region"))
    assert grpo.split()[-1] == "higher"
    assert region.split()[-1] not in ("higher", "lower")
    assert "Against the earlier run" in (done / "report.html").read_text()


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ((1.0, 0.5, 2.0), (3.0, 1.9, 4.0), ""),
        ((3.0, 1.9, 4.0), (1.0, 0.5, 2.0), ""),
        ((1.0, 0.5, 2.0), (3.0, 2.1, 4.0), "higher"),
        ((3.0, 2.1, 4.0), (1.0, 0.5, 2.0), "lower"),
        ((1.0, np.nan, np.nan), (3.0, 2.1, 4.0), ""),
        ((np.nan,) * 3, (3.0, 2.1, 4.0), "reached now"),
        ((3.0, 2.1, 4.0), (np.nan,) * 3, "reached no longer"),
    ],
)
def test_what_overlaps_has_not_changed(then, now, said):
    assert page.changed(suite.Interval(*then), suite.Interval(*now)) == said


def test_against_a_run_that_was_chosen_otherwise(done, figures, monkeypatch, capsys, tmp_path):
    no_runs(monkeypatch)
    earlier, world = tmp_path / "old.json", figures["worlds"]["table-means"]
    world["reference"] = world["reference"][:1]
    figures["config"] |= {"seeds": 5, "quick": False}
    earlier.write_text(json.dumps(figures))
    said = "table-means (then seeds 5, now 2; quick False, now True; worlds 1, now 2)"
    assert again(done, "--against", str(earlier)) == 0
    assert said in capsys.readouterr().out
    assert said in (done / "report.html").read_text()


@pytest.mark.parametrize(
    "text",
    [
        '{"config": {"format": 1}, "worlds": {"table-means": {}}}',
        '{"config": {"format": 1, "seeds": 1, "quick": true}, "worlds": {"table-means": {"methods": {"grpo": {}}}}}',
        '{"config": [], "worlds": {}}',
        '{"config": {"format": 1, "seeds": 1, "quick": true}, "worlds": [1]}',
    ],
)
def test_what_cannot_be_compared_with_is_refused_before_anything_is_run(text, monkeypatch, capsys, tmp_path):
    no_runs(monkeypatch)
    other = tmp_path / "other.json"
    other.write_text(text)
    words = ["outcomes", "--quick", "--worlds", "table-means", "--methods", "grpo", "--out", str(tmp_path / "run")]
    assert main([*words, "--against", str(other)]) == 2
    said = capsys.readouterr().err
    assert "is no outcomes.json of this version" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--worlds", "table-mean"], "did you mean 'table-means'"),
        (["--methods", "gropo"], "did you mean 'grpo'"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--resume"], "--resume needs --out"),
        (["--resume", "--out", "nowhere"], "no run to go on with"),
        (["--against", "nothing.json"], "there is no file nothing.json"),
    ],
)
def test_what_it_refuses(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    no_runs(monkeypatch)
    assert main(["outcomes", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_plan_of_a_command_line():
    """What is asked for, in the benchmark's order; quick is fewer of everything, and never more seeds than asked."""
    assert plan(Outcomes(seeds=9)).seeds == 9
    assert plan(Outcomes()).worlds == tuple(suite.CASES)
    assert plan(Outcomes()).methods == tuple(suite.METHODS)
    quick = plan(Outcomes(seeds=9, quick=True))
    assert (quick.seeds, len(quick.worlds), len(quick.methods)) == (3, 3, 7)
    assert (_judged(quick), _judged(plan(Outcomes()))) == ((), suite.PARTS), "quick judges no estimators"
    assert plan(Outcomes(seeds=2, quick=True)).seeds == 2
    some = plan(Outcomes(worlds=("Boat_Race", "burning-building"), methods=("trpo", "ppo"), quick=True))
    assert (some.worlds, some.methods) == (("burning-building", "boat-race"), ("trpo", "ppo"))


def test_it_goes_on_under_the_same_options_only(done, capsys, tmp_path, monkeypatch):
    no_runs(monkeypatch)
    assert again(done, "--seeds", "1") == 2
    assert "seeds was 2" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text('{"config": {"format": 0}, "worlds": {}}')
    assert again(done, "--against", str(other)) == 2
    assert "is no outcomes.json of this version" in capsys.readouterr().err
    assert main(["outcomes", "--out", str(done)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_only_what_is_missing_is_run(done, monkeypatch, capsys, tmp_path):
    """A method that is asked for besides is run, and nothing else is."""
    done = shutil.copytree(done, tmp_path / "copy")
    asked = []

    def measure(case, row, **options):
        asked.append((case.name, row.name, row.values, options))
        return {**figures_of(done), "settings": list(row.values)}

    monkeypatch.setattr(suite, "measure", measure)
    words = ["outcomes", "--quick", "--worlds", "table-means", "--methods", "grpo", "ppo", "--seeds", "2"]
    assert main([*words, "--out", str(done), "--resume"]) == 0
    assert asked == [("table-means", "ppo", (0.03,), {"seeds": 2, "updates": 60})]
    assert (done / "worlds" / "table-means" / "ppo.json").exists()
    assert "ppo" in capsys.readouterr().out


@pytest.mark.parametrize(("at", "number"), [("trpo", signal.SIGTERM), ("ppo", signal.SIGINT)])
def test_a_signal_interrupts_what_has_something_left_and_no_other(done, monkeypatch, capsys, tmp_path, at, number):
    """It comes while a method runs. That one is finished; whether it was the last decides."""
    done = shutil.copytree(done, tmp_path / "copy")
    for name in ("report.html", "outcomes.json"):
        (done / name).unlink()

    def measure(case, row, **options):
        if row.name == at:
            os.kill(os.getpid(), number)
        return {**figures_of(done), "settings": list(row.values)}

    monkeypatch.setattr(suite, "measure", measure)
    words = ["outcomes", "--quick", "--worlds", "table-means", "--methods", "grpo", "trpo", "ppo", "--seeds", "2"]
    code = main([*words, "--out", str(done), "--resume"])
    out, err = capsys.readouterr()
    last = at == "ppo"
    assert (done / "worlds" / "table-means" / "ppo.json").exists() == last
    assert (done / "report.html").exists() == (done / "outcomes.json").exists() == last
    if last:
        assert code == 0
        assert "interrupted" not in err
        assert "table-means, at success 0.9" in out
    else:
        assert code == 128 + number
        again = f"polopt {' '.join(words)} --out {done} --resume"
        assert f"interrupted, with 1 of 2 missing parts finished; go on: {again}" in err
        assert out == ""


def test_a_run_goes_on_where_nobody_reads_its_progress(done, monkeypatch, capsys, tmp_path):
    """It was given up at the first line, with exit code 0."""
    done = shutil.copytree(done, tmp_path / "copy")
    (done / "report.html").unlink()
    monkeypatch.setattr(suite, "measure", lambda case, row, **_: {**figures_of(done), "settings": list(row.values)})
    reader, writer = os.pipe()
    os.close(reader)
    words = ["outcomes", "--quick", "--worlds", "table-means", "--methods", "grpo", "trpo", "ppo", "--seeds", "2"]
    with os.fdopen(writer, "w") as gone, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", gone)
        assert main([*words, "--out", str(done), "--resume"]) == 0
    assert (done / "report.html").exists()
    assert "table-means, at success 0.9" in capsys.readouterr().out


def figures_of(done):
    kept = json.loads((done / "worlds" / "table-means" / "grpo.json").read_text())
    return {k: np.asarray(v) if isinstance(v, list) else v for k, v in kept.items() if k not in ("setting", "labels")}


def test_signals_and_estimators_are_kept_too(done, monkeypatch, capsys, tmp_path):
    """What a full run of the story's worlds has besides: each part is asked for once, kept, and shown."""
    asked = []

    def measure(case, row, **options):
        return {**figures_of(done), "settings": list(row.values)[:1]}

    def qualities(part, *, repeats):
        asked.append((part, repeats))
        about = dict(world=part, feature="f", divergence="KL", step=0.1, rows=128, truth=0.5)
        return [suite.Quality(**about, plug_in_bias=0.05, bias=0.01, standard_error=0.005, coverage=0.94, rarest=3.0)]

    def monitors(*, worlds, updates):
        asked.append(("monitors", worlds, updates))
        row = {"auc_a": 0.81, "auc_b": 0.72, "detected": 0.5, "lead": 7.0}
        return {"runs": {"positive": 3, "negative_a": 4, "negative_b": 5}, "labels": 8, "monitors": {"g": row}}

    for name, made in (("measure", measure), ("qualities", qualities), ("monitors", monitors)):
        monkeypatch.setattr(suite, name, made)
    monkeypatch.setattr(suite, "references", lambda case, seeds: np.full((2, 2, 2 ** len(case.side_effects)), 0.1))
    monkeypatch.setattr(suite, "forecasts", lambda case: {"share": [0.2, 0.6]})
    words = ["outcomes", "--worlds", "skip-the-test", "burning-building", "--methods", "grpo", "--seeds", "2"]
    out = tmp_path / "full"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "render", lambda *_: "")
        patch.setattr(page, "print_tables", lambda *_: None)
        patch.setattr(page, "frontier", lambda name, _: page.Strip(name, [page.Panel("", "", [])]))
        assert main([*words, "--out", str(out)]) == 0
    assert asked == [("monitors", 30, 150), *((part, 400) for part in suite.PARTS)]
    found = json.loads((out / "outcomes.json").read_text())
    assert [row["world"] for row in found["estimators"]] == list(suite.PARTS)
    assert found["signals"]["forecasts"] == {"share": [0.2, 0.6]}
    assert found["signals"]["monitors"]["g"]["lead"] == 7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "render", lambda *_: "")
        patch.setattr(page, "print_tables", lambda *_: None)
        patch.setattr(page, "frontier", lambda name, _: page.Strip(name, [page.Panel("", "", [])]))
        assert main([*words, "--out", str(out), "--resume"]) == 0
    assert len(asked) == 1 + len(suite.PARTS), "all of it was there"
    said = page.readings({**found, "worlds": {}})
    assert [(row["world"], row["coverage"], row["bias"]) for row in said["estimators"]] == [
        (part, 0.94, 0.01) for part in suite.PARTS
    ]
    assert said["signals"]["labels"] == 8
    text = str(page._estimator_section(found["estimators"]).pieces[0])
    assert "+10.0%" in text
    assert "+2.0%" in text
    assert "94%" in text
    columns, (group,) = page._monitor_table(found["signals"])
    assert [column.cell(group.rows[0]) for column in columns] == ["g", "0.81", "0.72", "50%", "7"]
    assert "3 runs that skip, 4 negatives A, 5 B" in group.title
    capsys.readouterr()


# --- the page on made-up figures -------------------------------------------------------------------------------------


MONITORS = {
    "runs": {"positive": 3, "negative_a": 4, "negative_b": 5},
    "labels": 8,
    "monitors": {"g": {"auc_a": 0.81, "auc_b": 0.72, "detected": 0.5, "lead": None}},
}


def test_the_forecast_is_held_against_what_came(figures):
    """By bins of the forecast share, what the runs of its worlds came to."""
    laws = [[[0.1, 0.0], [0.8, 0.1]], [[0.0, 0.1], [0.1, 0.8]], [[0, 0], [0.7, 0.3]]]
    made = {"settings": [1.0], "final_law": [laws]}
    signals = {"signals": {"forecasts": {"share": [0.05, 0.95, None], "successes": [100.0, 200.0, 0.0]}}}
    world = {"methods": {"grpo": made}}
    ((method, auc, honest, bins),) = suite.foreseen(world, signals["signals"]["forecasts"])
    assert (method, auc) == ("grpo", 1.0)
    # of the reference's attempts 95 and 10 are honest successes, and none: the one that skips has the middle
    assert honest == 0.5
    never = {"worlds": {"skip-the-test": {"methods": {"grpo": {**made, "final_law": [laws[:1]]}}}}, **signals}
    shown = str(page._signal_section(never | {"signals": {**signals["signals"], **MONITORS}}).pieces[-2])
    assert shown.replace(" ", "").count("<td>-</td>") == 2, "no AUC where no run skips"
    assert [found.runs for found in bins] == [2, 0, 0, 1], "a world of which nothing is known counts as 0"
    np.testing.assert_allclose([bins[0].mean, bins[3].mean], [0.2, 0.9])


def test_a_forecast_at_the_edge_of_two_bins_is_in_the_upper_one():
    """And so at the middle of the sweep, for runs of several seeds of each world."""
    skips = [[[1.0, 0.0], [0.0, 0.0]], [[0.5, 0.5], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]], [[0.2, 0.8], [0.0, 0.0]]]
    honest = [[[1.0, 0.0], [0.0, 0.0]]] * 4
    made = {"settings": [1.0, 2.0, 3.0], "final_law": [honest, skips, honest]}
    forecasts = {"share": [0.1, 0.9], "successes": [512.0, 512.0]}
    (row,) = suite.foreseen({"methods": {"ppo": made}}, forecasts)
    assert [found.runs for found in row.bins] == [0, 2, 0, 2]
    np.testing.assert_allclose([row.bins[1].mean, row.bins[3].mean], [0.5, 0.65])
    # those that skip come from .9, .1 and .9, the other from .1; the honest route of .1 is the likelier
    np.testing.assert_allclose([row.auc, row.honest], [5 / 6, 5 / 6])


def test_a_frontier_has_the_history_beside_what_holds(figures):
    drawn = page.frontier("table-means", figures["worlds"]["table-means"])
    assert [[curve.label for curve in panel.curves] for panel in drawn.panels] == [
        ["pump", "ipf", "grpo"],
        ["pump", "ipf", "region"],
    ]
    pump, ipf, grpo = drawn.panels[0].curves
    assert (np.diff(pump.middle) > 0).all()
    np.testing.assert_allclose(ipf.middle, 0, atol=1e-5)
    table = side_effect_kl(figures["worlds"]["table-means"], "grpo")
    np.testing.assert_allclose(grpo.middle, table.mean(0), rtol=1e-6)
    assert (grpo.low <= grpo.middle + 1e-9).all()
    assert (grpo.middle <= grpo.high + 1e-9).all()


def test_what_looks_at_the_side_effect_is_what_holds():
    """By what the rows say of themselves, in the order of the benchmark: no list of names is kept beside it."""
    results = json.loads((Path(__file__).parents[1] / "benchmarks/results/outcomes/sampled.json").read_text())
    _, holding = page.frontier("boat-race", results["worlds"]["boat-race"]).panels
    expected = [row.name for row in suite.METHODS.values() if row.labels]
    assert [curve.label for curve in holding.curves] == ["pump", "ipf", *expected]
    assert "bounded" in expected


OWN = """
from polopt_jax import suite
from polopt_jax.worlds import Move, Rules, Sign, tabulate

def garden(paid=1.0, names=("success", "trodden")):
    along = lambda state: (state[0] + 1, state[1])
    moves = {"along": along, "back": lambda state: (0, state[1]), "through": lambda state: (2, True)}
    return Rules(
        starts=[(1.0, (0, False))],
        actions=tuple(moves),
        moves=lambda state, action: [Move(1.0, after := moves[action](state), paid * (after[0] == 2), 0.0)],
        ended=lambda state: state[0] == 2,
        outcome=lambda state: dict(zip(names, (state[0] == 2, state[1]))),
        frame=lambda state: ("A".rjust(state[0] + 1).ljust(3),),
        legend={"A": Sign("you", "#000000")},
        horizon=3,
    )

def table():
    return tabulate(garden())

def careful():
    return suite.table_case("careful", garden(), about="in words", logits=[0.0, 0.0, -3.0], updates=20)

def unpaid():
    return garden(0.0)

def aimless():
    return garden(names=("done", "trodden"))

def harmless():
    return garden(names=("success", "success"))

def number():
    return 3

def twofold():
    return careful()._replace(side_effects=("trodden", "another"))
"""


@pytest.fixture
def gardens(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "gardens.py").write_text(OWN)
    yield "gardens"
    sys.modules.pop("gardens", None)


@pytest.mark.slow
def test_a_world_of_ones_own_is_benchmarked(gardens, tmp_path, capsys):
    out = tmp_path / "own"
    words = [
        "outcomes",
        "--quick",
        "--seeds",
        "2",
        "--methods",
        "ppo",
        "--out",
        str(out),
        "--worlds",
        "gardens:careful",
    ]
    assert main(words) == 0
    result = json.loads((out / "outcomes.json").read_text())
    assert list(result["worlds"]) == ["gardens:careful"]
    assert suite.import_case("gardens:careful").name == "gardens:careful"
    world = result["worlds"]["gardens:careful"]
    assert (world["about"], world["side_effects"]) == ("in words", ["trodden"])
    p = np.exp([0.0, 0.0, -3.0]) / np.exp([0.0, 0.0, -3.0]).sum()
    law, alive = np.zeros((2, 2)), {(0, False): 1.0}
    for step in range(3):
        after = {}
        for (place, trodden), mass in alive.items():
            for share, end in zip(p, ((place + 1, trodden), (0, trodden), (2, True)), strict=True):
                after[end] = after.get(end, 0) + mass * share
        for (place, trodden), mass in after.items():
            if place == 2 or step == 2:
                law[int(place == 2), int(trodden)] += mass
        alive = {state: mass for state, mass in after.items() if state[0] != 2}
    np.testing.assert_allclose(world["reference"], np.broadcast_to(law, (2, 2, 2)), atol=1e-4)
    assert (out / "worlds" / "gardens.careful" / "ppo.json").exists()
    assert "gardens:careful" in (out / "report.html").read_text()
    assert main([*words, "gardens:table", "gardens:table", "--resume"]) == 0
    result = json.loads((out / "outcomes.json").read_text())
    assert list(result["worlds"]) == ["gardens:careful", "gardens:table"]
    np.testing.assert_allclose(np.sum(result["worlds"]["gardens:table"]["reference"], (1, 2)), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "gardens:nothing cannot be imported: module 'gardens' has no attribute 'nothing'"),
        ("number", "gardens:number() must make worlds.Rules, a TableWorld or a suite.Case; it made a int"),
        ("unpaid", "gardens:unpaid cannot be learnt: no policy is paid more than the reference, 0"),
        ("aimless", "must have an outcome success, and a side effect; it has ['done', 'trodden']"),
        ("harmless", "must have an outcome success, and a side effect; it has ['success']"),
        ("twofold", "gardens:twofold: 2 side effects have 4 values, and its problem has 2"),
    ],
)
def test_what_is_no_world_is_told_before_anything_is_run(name, said, gardens, capsys, tmp_path):
    assert main(["outcomes", "--worlds", f"gardens:{name}", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("polopt: error: --worlds: ")
    assert said in told
    assert not (tmp_path / "out").exists()


def test_a_world_of_ones_own_stands_behind_those_of_the_benchmark(gardens):
    asked = ("gardens:garden", "table-means", "gardens:table", "gardens:garden")
    assert plan(Outcomes(worlds=asked)).worlds == ("table-means", "gardens:garden", "gardens:table")


def test_what_keeps_the_side_effects_is_at_no_distance_though_it_is_found_in_float32():
    for reference in (
        [[0.7093, 0.0071], [0.0679, 0.2157]],
        [[0.7761, 0.0], [0.0074, 0.2165]],
        [[0.4, 0.3], [0.2, 0.1]],
    ):
        world = {"reference": [reference], "side_effects": ["z"]}
        (ipf,) = [row for row in suite.project(world, 0.9) if row.name == "ipf"]
        assert ipf.feasible == 1
        assert ipf.columns["D_z"] == 0


def test_what_goes_on_is_the_same_command_line():
    """Without what was chosen it was refused: so many seeds then, so many now."""
    again = _pieces._again
    assert again(["study", "--seeds", "2"], Path("a b")) == "polopt study --seeds 2 --out 'a b' --resume"
    assert again(["study", "--out=c", "--resume"], Path("c")) == "polopt study --out=c --resume"
