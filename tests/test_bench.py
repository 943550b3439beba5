"""`polopt bench`: what its rows say, what it refuses, what it keeps. No test is of a time."""

import json
import re
import subprocess
import sys

import pytest

from benchmarks import parts
from benchmarks.parts import Case, Goal, Part, Peers, Row, Wanted, as_json, from_json, page
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


def test_a_peer_is_there_if_a_python_can_import_what_it_needs(monkeypatch):
    monkeypatch.setitem(part_module.NEEDS, "rejax", ("json", "csv"))
    two = Peers(("/no/such/python", sys.executable))
    assert two.has("rejax")
    assert two.python("rejax") == sys.executable
    assert not Peers(("/no/such/python",)).has("rejax")
    monkeypatch.setitem(part_module.NEEDS, "rejax", ("json", "no_such_module"))
    assert not two.has("rejax")
    why = f"it needs json, no_such_module, and /no/such/python and {sys.executable} cannot import all of them"
    assert two.missing("rejax") == why
    with pytest.raises(ValueError, match="rejax: it needs json"):
        two.program("rejax", "rejax", {})


def test_a_program_of_a_peer_runs_in_its_python(monkeypatch):
    monkeypatch.setitem(part_module.NEEDS, "purejaxrl", ("json",))
    monkeypatch.setitem(part_module.NEEDS, "rejax", ("csv",))
    assert not Peers().has("purejaxrl")
    assert "--purejaxrl" in Peers().missing("purejaxrl")
    with pytest.raises(ValueError, match="--purejaxrl"):
        Peers().program("purejaxrl", "purejaxrl", {})
    found = Peers(purejaxrl="folder").program("purejaxrl", "module", {"x": 1})
    assert found == ("PureJaxRL", "module", {"x": 1, "source": "folder"}, sys.executable)
    assert Peers(purejaxrl="folder").program("rejax", "m", {}, called="it") == ("it", "m", {}, sys.executable)


def test_a_quick_run_has_the_smallest_sizes_and_three_rounds():
    assert list(Wanted(quick=True).sizes(64, 1024)) == [64]
    assert list(Wanted().sizes(64, 1024)) == [64, 1024]
    assert (Wanted(quick=True).rounds(9), Wanted().rounds(9)) == (3, 9)


# The command


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_part_runs(tmp_path):
    words = ["bench", "--quick", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    result = json.loads((tmp_path / "run" / "bench.json").read_text())
    assert list(result["parts"]) == list(parts.PARTS)
    assert all(case["rows"] for cases in result["parts"].values() for case in cases)


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
    monkeypatch.setattr(Peers, "python", lambda self, name: None)
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
    assert "training, learning, baselines" in run.stderr


def test_cases_of_a_part_by_name(small, tmp_path, capsys):
    assert main(["bench", "learning", "first:two", "--out", str(tmp_path / "run")]) == 0
    assert small == ["two", "ant"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["parts"] == ["first:two", "learning"]
    found = json.loads((tmp_path / "run" / "bench.json").read_text())["parts"]
    assert [(part, case["case"]) for part, cases in found.items() for case in cases] == [
        ("first", "two"),
        ("learning", "ant"),
    ]
    assert main(["bench", "first:two", "first", "--resume", "--out", str(tmp_path / "run")]) == 0
    assert small == ["two", "ant", "one"]  # the part itself is all of it
    assert main(["bench", "first:tow"]) == 2
    assert "unknown case of first 'tow'; did you mean 'two'? Known: one, two" in capsys.readouterr().err


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Where results go; `of(*words)` publishes, and gives the file of the first part."""
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(page, "REPORT", tmp_path / "report.md")

    def of(*words):
        assert main(["bench", *words, "--publish", "--out", str(tmp_path / words[0].replace(":", "-"))]) == 0
        (path,) = (tmp_path / "results").glob("*/bench/first.json")
        return json.loads(path.read_text())

    return of


def test_what_is_published_is_kept_by_device_and_reported(small, published, capsys):
    kept = published("first")
    assert kept["benchmark"] == "first"
    assert [case["case"] for case in kept["cases"]] == ["one", "two"]
    assert all("jax" in case["made"]["versions"] for case in kept["cases"])
    report = page.REPORT.read_text()
    assert f"## {kept['device']}: first" in report
    assert (
        report.count("| a thing | 64 rows | 1 ms | a peer | 2 ms | 0.50 (0.40 to 0.60, n = 9) | at most 0.5: met |")
        == 2
    )
    assert report.count("- a peer: it differs") == 1
    assert report.count(", Python ") == 1
    assert "\n- one, two: " not in report


def test_the_processor_is_noted_and_told_where_it_is_known(small, published, monkeypatch):
    monkeypatch.setattr(page, "processor", {"model name": "A Chip"}.get)
    assert [case["made"]["processor"] for case in published("first")["cases"]] == ["A Chip", "A Chip"]
    assert ", A Chip, Python " in page.REPORT.read_text()
    monkeypatch.setattr(page, "processor", lambda name: "")
    published("first:two")
    one, two = (line for line in page.REPORT.read_text().splitlines() if ", Python " in line)
    assert ", A Chip, Python " in one
    assert one.replace(", A Chip", "").removeprefix("- one") == two.removeprefix("- two")


def test_a_case_that_is_published_takes_the_place_of_its_own_and_a_whole_part_of_all(small, published, monkeypatch):
    kept = published("first")
    monkeypatch.setattr(page.platform, "python_version", lambda: "9.9")
    again = published("first:two")
    assert [case["made"]["python"] == "9.9" for case in again["cases"]] == [False, True]
    assert again["cases"][0] == kept["cases"][0]
    assert "\n- one: " in page.REPORT.read_text()
    assert "\n- two: " in page.REPORT.read_text()
    page.publish({"first": []})
    assert json.loads(next(page.RESULTS.rglob("first.json")).read_text())["cases"] == []


def test_the_page_has_a_group_for_what_was_measured_once():
    rows = [
        ROW,
        ROW._replace(beside="another"),
        ROW._replace(size=1024),
        ROW._replace(ours=2.0),
        ROW._replace(size=None),
    ]
    groups = page.grouped(rows)
    assert [(group.title, len(group.rows)) for group in groups] == [
        ("a thing, 64 rows: 1 ms", 2),
        ("a thing, 1,024 rows: 1 ms", 1),
        ("a thing, 64 rows: 2 ms", 1),
        ("a thing: 1 ms", 1),
    ]
    cells = [
        [column.cell(row) for column in page.ON_PAGE] for row in (ROW, ROW._replace(low=None, goal=None, ratio=None))
    ]
    assert cells[0] == ["a peer", "2 ms", "0.50", "0.40 to 0.60", "9", "at most 0.5: met"]
    assert cells[1] == ["a peer", "2 ms", "-", "-", "-", "-"]


def test_the_report_that_is_kept_is_that_of_the_files():
    if page.REPORT.exists():
        assert page.REPORT.read_text() == page.markdown(page.kept())


def test_what_is_drawn_is_kept_beside_the_report(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(page, "REPORT", tmp_path / "report.md")
    curves = {"ours": {"returns": [[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, None]]}}
    learned = {"case": "ant", "rows": [], "learning": {"env": "ant", "decisions": 100, "curves": curves}}
    (panel,) = page.learned([learned])
    assert panel.curves[0].x.tolist() == [25, 50, 75, 100]  # a mean is of the quarter that ends there
    assert panel.curves[0].middle.tolist() == [2, 3, 4, 4]
    grows = [ROW, ROW._replace(size=128, ratio=0.7)]
    sizes = {"case": "one", "rows": as_json(grows)}
    written = page.publish({"learning": [learned], "grown": [sizes], "single": [{**sizes, "rows": as_json([ROW])}]})
    plots = {path.name.split("-")[-1]: path for path in written if path.suffix == ".png"}
    assert set(plots) == {"learning.png", "grown.png"}
    said = page.REPORT.read_text()
    for name, caption in (("learning", "return against decisions"), ("grown", "ratios of ours over theirs")):
        path = plots[f"{name}.png"]
        assert path.read_bytes()[1:4] == b"PNG"
        assert f": {name}: {caption}" in said
        assert f"](plots/{path.name})" in said
    assert said.count("![") == 2


def test_every_picture_of_the_report_is_there():
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.REPORT.read_text()):
        assert (page.REPORT.parent / name).exists(), name


def test_a_goal_that_is_missed_is_said_to_be():
    assert page.goal(ROW) == "at most 0.5: met"
    assert page.goal(ROW._replace(ratio=0.51)) == "at most 0.5: MISSED"
    assert page.goal(ROW._replace(goal=None)) == page.goal(ROW._replace(ratio=None)) == "-"


def test_what_was_measured_at_two_sizes_is_drawn_a_curve_for_each_peer():
    rows = [ROW._replace(size=128, ratio=0.7, low=None), ROW, ROW._replace(beside="another"), ROW._replace(what="once")]
    (panel,) = page.over_sizes(rows)
    (curve,) = panel.curves
    assert (panel.title, panel.x_label, curve.label) == ("a thing", "rows", "over a peer")
    assert (curve.x.tolist(), panel.x_names) == ([0, 1], ["64", "128"])
    assert (curve.middle.tolist(), curve.low.tolist(), curve.high.tolist()) == ([0.5, 0.7], [0.4, 0.7], [0.6, 0.6])
    others = [ROW._replace(what="else", beside="another"), ROW._replace(what="else", beside="another", size=128)]
    assert [[c.style for c in panel.curves] for panel in page.over_sizes(rows + others)] == [[0], [1]]
    (alone,) = page.over_sizes(rows[:2])
    assert alone.title == "a thing, over a peer"


def test_figures_of_training_in_the_readme_are_those_of_the_file():
    """In the order of its first line: three sizes of the pendulum, two of ant, one of the cheetah."""
    readme = (page.RESULTS.parents[1] / "README.md").read_text()
    file = json.loads((page.RESULTS / "cpu-2" / "bench" / "training.json").read_text())
    sizes = [("inverted_pendulum", 64), ("inverted_pendulum", 1024), ("inverted_pendulum", 8192)]
    sizes += [("ant", 256), ("ant", 1024), ("halfcheetah", 256)]
    ratios = {(r["what"], r["size"], r["beside"]): r["ratio"] for case in file["cases"] for r in case["rows"]}
    lines = {
        "PPO over stepping Brax alone": ("the environment alone", ""),
        "PPO over PureJaxRL's": ("PureJaxRL", ""),
        "PPO over rejax's": ("rejax", ""),
        "PPO over brax's own": ("brax's trainer", ""),
        "to the end of the first update, compilation and all, over PureJaxRL's": ("PureJaxRL", ": to the first update"),
        "to the end of the first update over rejax's": ("rejax", ": to the first update"),
        "to the end of the first update over brax's own": ("brax's trainer", ": to the first update"),
    }
    for begins, (beside, of) in lines.items():
        (line,) = [line for line in readme.splitlines() if line.startswith(f"| {begins}")]
        said = line.split("|")[2].replace(";", ",").split(",")
        assert [x.strip() for x in said] == [f"{ratios[f'PPO, {env}{of}', n, beside]:.2f}" for env, n in sizes], begins


def test_figures_of_learning_in_the_readme_are_those_of_the_file():
    """On the way and in the end; a star is an interval without 1."""
    readme = (page.RESULTS.parents[1] / "README.md").read_text().splitlines()
    file = json.loads((page.RESULTS / "cpu-2" / "bench" / "learning.json").read_text())
    rows = {(r["what"], r["beside"]): r for case in file["cases"] for r in case["rows"] if "ratio" in r}
    begins = next(k for k, line in enumerate(readme) if "over brax's trainer, deviation 1" in line) + 2

    def said(what, beside):
        row = rows[what, beside]
        return f"{row['ratio']:.2f}" + "*" * (not row["low"] <= 1 <= row["high"])

    envs = ("inverted_pendulum", "inverted_double_pendulum", "hopper", "ant", "halfcheetah")
    for line, env in zip(readme[begins:], envs, strict=False):
        named, *cells, _ = [cell.strip() for cell in line.split("|")[1:]]
        assert f"`{env}`" in named
        assert cells == [
            "; ".join(said(f"{kind}, {env}{of}", peer) for kind in ("mean return on the way", "return in the end"))
            for peer in ("PureJaxRL", "brax's trainer")
            for of in ("", ", narrower at first")
        ]
    assert not readme[begins + len(envs)].strip()
