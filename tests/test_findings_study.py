"""The page of what the study found, against the result file that is kept."""

import json
import re

import numpy as np
import pytest

from benchmarks import outcomes_study
from benchmarks.outcomes_exact.findings import filled
from polopt_jax import study
from polopt_jax.study import _analysis


@pytest.fixture(scope="module")
def results():
    return json.loads(outcomes_study.KEPT.read_text())


def cells(text, *begin):
    row = next(line for line in text.splitlines() if line.startswith("| " + " | ".join(begin) + " |"))
    return [cell.strip() for cell in row.strip("|").split("|")][len(begin) :]


def test_the_page_has_the_tables_of_the_kept_results(results):
    page = outcomes_study.PAGE.read_text()
    assert re.findall(r"<!-- table: ([\w-]+) -->", page) == list(outcomes_study.TABLES)
    assert filled(page, results, outcomes_study.TABLES) == page


def test_what_is_kept_was_run_as_it_was_registered(results):
    assert set(results["run"]) == {"Date", "Device", "Versions"}
    for name, world in results["worlds"].items():
        assert list(world["scales"]) == (["8"] if name == outcomes_study.TOLD else ["8", "32", "128", "table"])
        for found in world["scales"].values():
            assert tuple(found) == study.OBJECTIVES
            assert all(np.shape(figures["reached"]) == (3, 3, 10, 3) for figures in found.values())


def test_its_rows_are_means_at_the_chosen_setting(results):
    text = outcomes_study.matched(results, outcomes_study.DOOR, "P(exploded)")
    figures = results["worlds"][outcomes_study.DOOR]["scales"]["128"]["grpo"]
    setting = study.chosen(figures, 1)
    assert figures["settings"][setting] == 0.001
    laws = np.array(figures["law"][1][setting], float)[:, -1]
    assert float(cells(text, "competent", "grpo")[2].split()[0]) == float(f"{laws[..., 2:].sum((-2, -1)).mean():.3g}")


def test_the_starts_are_what_training_began_with(results):
    text = outcomes_study.starts(results, outcomes_study.HAZARD)
    figures = results["worlds"][outcomes_study.HAZARD]["scales"]["32"]["reinforce"]
    law = np.array(figures["begin_law"][2]).mean(0)
    found = [float(cell) for cell in cells(text, "careful", "32")]
    wanted = [law[1].sum(), law[:, 2:].sum(), law[:, [1, 3]].sum(), np.mean(figures["forecast"][2])]
    np.testing.assert_allclose(found[1:], wanted, rtol=6e-3)


def test_later_is_the_end_of_training(results):
    text = outcomes_study.later(results, outcomes_study.DOOR, "exploded")
    figures = results["worlds"][outcomes_study.DOOR]["scales"]["table"]["trpo"]
    laws = np.array(figures["final_law"][2][study.chosen(figures, 2)])
    shown = float(cells(text, "careful", "trpo")[3].split()[0])
    np.testing.assert_allclose(shown, laws[..., 2:].sum((-2, -1)).mean(), rtol=6e-3)


def test_verdicts_and_shares_are_those_of_the_study(results, monkeypatch):
    monkeypatch.setattr(_analysis, "RESAMPLES", 50)
    text = outcomes_study.verdicts(results)
    for verdict in study.verdicts(results["worlds"]):
        assert cells(text, verdict.name)[0] == verdict.hypothesis
    values = study.logit(study.response(results["worlds"][outcomes_study.DOOR], "P(vase)").values)
    shown = cells(outcomes_study.shares(results), "start")[2]
    assert float(shown.split()[0]) == float(f"{study.shares(values)['start']:.3g}")


def test_the_regression_is_that_of_the_study(results):
    text = outcomes_study.predictors(results)
    world = results["worlds"][outcomes_study.TOLD]
    held, moved = (study.response(world, field).values for field in ("held-out P(z)", "side_effect_kl"))
    sides = [study.logit(held)[0], np.log(np.maximum(moved, 1e-6))[0]]  # one scale; [objective, start, seed]
    centred = [np.ravel(x - x.mean((0, 2), keepdims=True)) for x in sides]
    assert float(cells(text, "D_z")[0].split()[0]) == pytest.approx(np.corrcoef(*centred)[0, 1] ** 2, abs=1e-3)


def test_a_run_of_one_world_leaves_the_others(results, monkeypatch, tmp_path):
    kept, page = tmp_path / "study.json", tmp_path / "page.md"
    kept.write_text(json.dumps(results))
    page.write_text("nothing")
    told = results["worlds"][outcomes_study.TOLD]
    new = {
        **results,
        "run": {**results["run"], "Directory": "/home"},
        "worlds": {outcomes_study.TOLD: {**told, "n": 1}},
    }
    (tmp_path / "new.json").write_text(json.dumps(new))
    monkeypatch.setattr(outcomes_study, "KEPT", kept)
    monkeypatch.setattr(outcomes_study, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["outcomes_study", str(tmp_path / "new.json")])
    outcomes_study.main()
    found = json.loads(kept.read_text())
    assert list(found["worlds"]) == list(results["worlds"])
    assert found["worlds"][outcomes_study.TOLD]["n"] == 1
    assert found["worlds"][outcomes_study.DOOR] == results["worlds"][outcomes_study.DOOR]
    assert "Directory" not in found["run"]


def test_a_run_of_few_scales_and_objectives_leaves_the_others(results):
    door = results["worlds"][outcomes_study.DOOR]
    part = {**door, "scales": {"32": {"trpo": "again"}, "8": {"grpo": "again"}}}
    few = {"worlds": [outcomes_study.DOOR], "scales": ["8", "32"], "objectives": ["trpo", "grpo"]}
    new = {**results, "config": {**results["config"], **few}, "worlds": {outcomes_study.DOOR: part}}
    every = outcomes_study.beside(results, new)
    assert list(every["worlds"]) == list(results["worlds"]) == every["config"]["worlds"]
    found = every["worlds"][outcomes_study.DOOR]["scales"]
    assert list(found) == list(door["scales"]) == every["config"]["scales"]
    assert list(found["32"]) == list(door["scales"]["32"]) == every["config"]["objectives"]
    assert [found["32"]["trpo"], found["8"]["grpo"]] == ["again"] * 2
    assert found["32"]["grpo"] == door["scales"]["32"]["grpo"]
    assert found["128"] == door["scales"]["128"]


@pytest.mark.parametrize("otherwise", [{"quick": True}, {"seeds": 3}])
def test_a_run_that_was_chosen_otherwise_is_not_kept(results, otherwise):
    with pytest.raises(ValueError, match=str(otherwise)[1:-1]):
        outcomes_study.beside(results, {**results, "config": {**results["config"], **otherwise}})
