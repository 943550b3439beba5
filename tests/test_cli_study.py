"""`polopt study`: what it runs, keeps, shows and refuses. What is run is made up here; `test_study` runs it."""

import json
import re
import shutil

import numpy as np
import pytest
from study_figures import STARTS, figures, world

from polopt_jax import study
from polopt_jax.cli import _study_page as page
from polopt_jax.cli import main
from polopt_jax.cli._piece_options import Study
from polopt_jax.cli._study import plan
from polopt_jax.study import _analysis, _predictors

DOOR, HAZARD, TOLD = study.GROUNDS
WORDS = ("study", "--worlds", DOOR, "--scales", "8", "table", "--objectives", "trpo", "grpo", "--seeds", "2")


def answered(monkeypatch):
    """What is asked to be run from now on, in order; each is answered at once."""
    asked = []

    def measure(ground, objective, scale, start, *, seeds, updates):
        asked.append((ground.name, scale, objective, start, seeds, updates))
        rate = np.full((1, seeds), 0.2 if objective == "trpo" else 0.6)
        if scale == "table" and start == "random":
            rate[0, 0] = np.nan
        found = figures(rate, size=2 ** len(ground.side_effects), setting=0 if scale == "table" else 2)
        del found["starts"]
        return {name: x[0] if isinstance(x, np.ndarray) else x for name, x in found.items()}

    monkeypatch.setattr(study, "measure", measure)
    monkeypatch.setattr(_analysis, "RESAMPLES", 50)
    return asked


@pytest.fixture(autouse=True)
def runs(monkeypatch):
    return answered(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody changes, and what was asked for it."""
    directory = tmp_path_factory.mktemp("study") / "run"
    with pytest.MonkeyPatch.context() as patch:
        asked = answered(patch)
        assert main([*WORDS, "--out", str(directory)]) == 0
    return directory, asked


@pytest.fixture
def done(whole):
    return whole[0]


def test_what_it_leaves(whole):
    done, runs = whole
    assert {path.name for path in done.iterdir()} >= {"study.json", "report.html", "study.png", "config.json", "parts"}
    assert runs == [
        (DOOR, scale, objective, start, 2, 100)
        for scale in ("8", "table")
        for objective in ("trpo", "grpo")
        for start in STARTS
    ]
    result = json.loads((done / "study.json").read_text())
    assert result["config"] == {
        "format": 2,
        "worlds": [DOOR],
        "objectives": ["trpo", "grpo"],
        "scales": ["8", "table"],
        "seeds": 2,
        "quick": False,
    }
    kept = result["worlds"][DOOR]
    assert kept["side_effects"] == ["exploded", "vase"]
    assert kept["starts"] == ["random", "competent", "careful"]
    assert set(kept["scales"]["table"]) == {"trpo", "grpo"}
    np.testing.assert_allclose(study.response(kept, "P(z)").values[0, 0, 1], 0.2)
    assert (done / "study.png").read_bytes().startswith(b"\x89PNG")


def test_its_page_needs_nothing_from_outside(done):
    text = (done / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text) == []
    assert text.count("<svg") == 2
    for said in (
        "The answer",
        "H3 is open",
        "competent",
        "P(exploded)",
        "P(vase)",
        "D_traj",
        "start‖new",
        "scale x objective",
    ):
        assert said in text
    assert "held-out" not in text.split("The answer")[1].split(DOOR)[1].split("never")[0], "nothing is held out there"


def test_what_it_prints(tmp_path, capsys):
    assert main([*WORDS, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    row = next(line for line in lines if line.startswith("random") and "table" in line and "trpo" in line)
    assert row.split()[3:5] == ["0.001", "0.2"], "the setting and P(z)"
    assert "[" not in row, "one run has no interval"
    two = next(line for line in lines if line.startswith("competent") and "table" in line and "trpo" in line)
    assert two.split()[4:7] == ["0.2", "[0.2,", "0.2]"]
    assert "50%" in row, "one of two seeds never got there"
    assert any(line.startswith("H3 is open") for line in lines)
    assert page.PART in said.out
    assert f"Report: {tmp_path / 'run' / 'report.html'}" in said.out
    assert "11 of 12" in said.err


def test_its_json_is_what_the_study_says(tmp_path, capsys):
    assert main([*WORDS, "--out", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["part"] is True
    assert [verdict["name"] for verdict in told["verdicts"]] == [f"H{i}" for i in range(1, 8)]
    assert told["shares"][DOOR]["P(z)"]["objective"]["mean"] > 0.99
    assert set(told["shares"][DOOR]) == {"P(z)", "P(exploded)", "P(vase)"}
    rows = {(row["scale"], row["objective"], row["start"]): row for row in told["worlds"][DOOR]}
    assert len(rows) == 12
    assert rows["table", "trpo", "random"]["never"] == 0.5
    assert rows["8", "trpo", "random"]["never"] == 0
    assert (rows["8", "trpo", "random"]["setting"], rows["table", "trpo", "random"]["setting"]) == (0.01, 0.001)
    assert rows["8", "grpo", "careful"]["columns"]["P(z)"] == pytest.approx(dict.fromkeys(("mean", "low", "high"), 0.6))


def test_a_run_is_gone_on_with(whole, tmp_path, runs, capsys):
    done = shutil.copytree(whole[0], tmp_path / "run")
    (done / "parts" / DOOR / "8" / "grpo" / "careful.json").unlink()
    wider = [word if word != "grpo" else "ppo" for word in WORDS]
    assert main([*WORDS, "--out", str(done), "--resume"]) == 0
    assert runs == [(DOOR, "8", "grpo", "careful", 2, 100)]
    assert main([*wider, "--out", str(done), "--resume"]) == 0
    added = [(DOOR, scale, "ppo", start, 2, 100) for scale in ("8", "table") for start in STARTS]
    assert runs[1:] == added, "other objectives may be added"
    assert main([*WORDS[:-1], "3", "--out", str(done), "--resume"]) == 2
    assert "seeds was 2" in capsys.readouterr().err


def test_an_interrupted_run_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    import os
    import signal

    real, number = study.measure, []

    def measure(*args, **options):
        number.append(args)
        if len(number) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **options)

    monkeypatch.setattr(study, "measure", measure)
    assert main([*WORDS, "--out", str(tmp_path / "run")]) == 130
    assert "--resume" in capsys.readouterr().err
    assert len(list((tmp_path / "run" / "parts").rglob("*.json"))) == 2
    assert main([*WORDS, "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert len(number) == 12


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--worlds", "building"], "building"),
        (["--objectives", "gppo"], "grpo"),
        (["--scales", "9"], "9"),
        (["--worlds", TOLD, "--scales", "table"], "told-worlds has none of table; it has 8, 32, 128"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--resume"], "--resume needs --out"),
    ],
)
def test_wrong_input(words, said, capsys, runs):
    assert main(["study", *words]) == 2
    assert said in capsys.readouterr().err
    assert not runs


def test_the_plan_of_everything_and_of_little():
    everything = plan(Study())
    assert everything.worlds == tuple(study.GROUNDS)
    assert everything.objectives == study.OBJECTIVES
    assert everything.scales == ("8", "32", "128", "table")
    assert everything.seeds == 10
    little = plan(Study(quick=True))
    assert little == little._replace(worlds=(DOOR, HAZARD), scales=("8", "table"), seeds=3)
    assert plan(Study(quick=True, seeds=2)).seeds == 2
    assert plan(Study(scales=("table",))).worlds == (DOOR, HAZARD), "the others have no table"


def test_quick_takes_half_of_the_updates(tmp_path, runs):
    words = ["study", "--quick", "--worlds", DOOR, "--scales", "table", "--objectives", "trpo"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert runs == [(DOOR, "table", "trpo", start, 3, 50) for start in STARTS]


def test_a_scale_that_a_world_has_not_is_left_out(tmp_path, runs):
    words = ["study", "--worlds", TOLD, "--scales", "table", "8", "--objectives", "trpo", "--seeds", "1"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert {(world, scale) for world, scale, *_ in runs} == {(TOLD, "8")}
    assert "held-out P(z)" in (tmp_path / "run" / "report.html").read_text()


def test_a_part_of_what_was_registered_is_said_to_be_one(done):
    text = (done / "report.html").read_text()
    assert page.PART in text
    worlds = {
        name: {
            "seeds": 10,
            "scales": {scale: dict.fromkeys(study.OBJECTIVES) for scale in ground.scales},
        }
        for name, ground in study.GROUNDS.items()
    }
    assert not page.is_part(worlds)
    assert page.is_part({name: worlds[name] for name in (DOOR, HAZARD)})
    assert page.is_part({**worlds, DOOR: {**worlds[DOOR], "seeds": 9}})
    assert page.is_part({**worlds, DOOR: {**worlds[DOOR], "scales": {"8": dict.fromkeys(study.OBJECTIVES)}}})
    fewer = {scale: {"trpo": None} for scale in study.GROUNDS[DOOR].scales}
    assert page.is_part({**worlds, DOOR: {**worlds[DOOR], "scales": fewer}})


def test_the_picture_has_a_curve_for_each_objective_and_for_the_start(done):
    result = json.loads((done / "study.json").read_text())
    (made,) = result["worlds"].values()
    for scale in made["scales"].values():
        for found in scale.values():
            laws = np.array(found["begin_law"])
            found["begin_law"] = np.stack([laws[0] * 0 + 0.1, laws[1], laws[2] * 0 + 0.3]).tolist()
    exploded, vase = page.pictures(result)
    starts = ("random", "competent", "careful")
    assert [panel.title for panel in exploded.panels] == [f"P(exploded), {start} start" for start in starts]
    assert vase.panels[0].title == "P(vase), random start"
    first = exploded.panels[1]
    assert [curve.label for curve in first.curves] == ["start", "trpo", "grpo"]
    assert len({curve.style for curve in first.curves}) == 3
    assert list(first.x_names) == ["8", "table"]
    np.testing.assert_allclose(first.curves[0].middle, 0.25)
    assert len({float(panel.curves[0].middle[0]) for panel in exploded.panels}) == 3, "each panel has its own start"
    np.testing.assert_allclose(first.curves[1].middle, 0.2)


def test_what_told_of_held_out_prompts_is_shown(monkeypatch, capsys):
    """Every figure of the table is one of the regression, in the terminal, on the page and as JSON."""
    monkeypatch.setattr(_predictors, "RESAMPLES", 20)
    rng = np.random.default_rng(0)
    made = world(lambda *_: 0.5, seeds=3, held_out=lambda *_: float(rng.uniform(0.1, 0.9)))
    for found in made["scales"].values():
        for each in found.values():
            for name in _predictors.DIVERGENCES.values():
                each[name] = np.exp(rng.normal(size=each[name].shape))
    result = {"worlds": {TOLD: made}}
    wanted = study.predictors(made)
    page.print_tables(result)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    html = page.render(result, dict.fromkeys(("Directory", "Device", "Versions", "Date", "Command"), ""))
    told = {row["name"]: row for row in page.answers(result)["predictors"][TOLD]}
    for row in wanted:
        shown = "{:.2f} [{:.2f}, {:.2f}] {:.2f} [{:.2f}, {:.2f}]".format(*row.alone, *row.together)
        assert [row.name, *shown.split()] in rows
        assert "{:.2f} [{:.2f}, {:.2f}]".format(*row.together) in html
        assert told[row.name]["alone"]["mean"] == row.alone.mean
        assert told[row.name]["together"]["high"] == row.together.high


def test_the_default_number_of_seeds_is_the_registered_one():
    assert Study().seeds == study.SEEDS


def test_what_was_not_varied_has_no_share(tmp_path, capsys):
    words = ["study", "--worlds", DOOR, "--scales", "8", "--objectives", "trpo", "grpo", "--seeds", "2"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {
        line.split("  ")[0].strip(): line.split("  ")[-1].strip() for line in lines if " x " in line or "scale" in line
    }
    assert told["scale"] == told["scale x objective"] == told["scale x objective x start"] == "-"
    assert told["objective x start"].endswith("]")
