"""`polopt compare`: every run is one of its own, and what is not finished goes on."""

import contextlib
import errno
import io
import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import small_run
from small_run import compiled_once, digests, hashes, interrupt_at, rows_without_times, run_small

from polopt_jax import checkpoint
from polopt_jax.cli import _running, main
from polopt_jax.cli._table import group_title

LINE = "compare --algorithms actor_critic reinforce --env inverted_pendulum --num-envs 8 --steps 6000 --num-seeds 2"
NAMES = ("inverted_pendulum-reinforce", "inverted_pendulum-actor_critic")


@pytest.fixture(scope="module", autouse=True)
def shared():
    with compiled_once():
        yield


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_running, "build", small_run.build)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("compare") / "whole"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert run_small("--out", str(directory), line=LINE) == 0
    (directory.parent / "said").write_text(said.getvalue())
    return directory


def test_compare_prints_one_table(whole):
    out = (whole.parent / "said").read_text()
    assert out.count("algorithm ") == 1
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("rein", "actor"))] == [
        "reinforce",
        "actor_critic",
    ]
    assert f"Report: {whole}/report.html" in out
    for algorithm, name in zip(("reinforce", "actor_critic"), NAMES, strict=True):
        rows = [json.loads(line) for line in (whole / name / "metrics.jsonl").read_text().splitlines()]
        assert all(len(row["kl_old_new"]) == 2 for row in rows)
        assert json.loads((whole / name / "config.json").read_text())["algorithm"] == algorithm
    assert {path.name for path in whole.iterdir()} == {
        ".lock",
        "config.json",
        "curves.png",
        "inverted_pendulum-actor_critic",
        "inverted_pendulum-reinforce",
        "report.html",
        "summary.json",
    }


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_an_interrupted_comparison_goes_on_with_what_is_left(whole, in_tmp, capsys, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_at(patched, last_update(whole) // 2, signal.SIGINT)  # of the first run that gets there
        assert main([*LINE.split(), "--out", "parts"]) == 130
    said = "interrupted, with 0 of 2 runs finished; go on with: polopt compare --out parts --resume"
    assert last_line(capsys) == f"polopt: {said}"
    assert not (in_tmp / "parts" / NAMES[1]).exists()
    assert main(["compare", "--out", "parts", "--resume", "--json"]) == 0
    summaries = json.loads(capsys.readouterr().out)["results"]
    assert [(entry["algorithm"], entry["status"]) for entry in summaries] == [
        ("reinforce", "finished"),
        ("actor_critic", "finished"),
    ]
    for name in NAMES:
        assert rows_without_times(in_tmp / "parts" / name) == rows_without_times(whole / name)
        assert digests(in_tmp / "parts" / name) == digests(whole / name)


def last_update(directory):
    return checkpoint.latest_step(directory / NAMES[0] / "checkpoints")


def test_what_is_finished_is_not_done_again(whole, in_tmp, capsys):
    shutil.copytree(whole, in_tmp / "copy")
    before = {name: hashes(in_tmp / "copy" / name) for name in NAMES}
    (in_tmp / "copy" / "report.html").unlink()
    assert main(["compare", "--out", "copy", "--resume"]) == 0
    after = {name: hashes(in_tmp / "copy" / name) for name in NAMES}
    drop_locks = lambda found: {name: {p: x for p, x in files.items() if p != ".lock"} for name, files in found.items()}  # noqa: E731
    assert drop_locks(after) == drop_locks(before)
    assert (in_tmp / "copy" / "report.html").exists()
    told = capsys.readouterr().err
    assert "reinforce on inverted_pendulum is finished" in told


def test_a_run_of_a_comparison_is_a_run(whole, in_tmp, capsys):
    shutil.copytree(whole / NAMES[0], in_tmp / "one")
    assert main(["train", "--out", "one", "--resume"]) == 0
    assert "is finished" in capsys.readouterr().err
    config = json.loads((whole / "config.json").read_text())["runs"][0]
    assert json.loads((whole / NAMES[0] / "config.json").read_text()) == config


def test_a_file_that_cannot_be_written_is_told_with_the_way_to_go_on(whole, in_tmp, capsys, monkeypatch):
    """A disk that is full in the second run: the first is not done again."""

    def full(path, *arguments):
        if NAMES[1] in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return save(path, *arguments)

    save = checkpoint.save
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", full)
        assert main([*LINE.split(), "--out", "parts"]) == 6
    said = last_line(capsys)
    assert "No space left on device: parts/inverted_pendulum-actor_critic" in said
    assert said.endswith("what was saved is intact; when that is mended, polopt compare --out parts --resume")
    assert main(["compare", "--out", "parts", "--resume"]) == 0
    assert "reinforce on inverted_pendulum is finished" in capsys.readouterr().err
    for name in NAMES:
        assert digests(in_tmp / "parts" / name) == digests(whole / name)


@pytest.mark.parametrize(
    ("config", "line", "said"),
    [
        (None, "compare --resume --out none", "there is no none/config.json, so there is no comparison"),
        ("{}", "compare --resume --out there", "not that of a comparison: it has no list of runs"),
        ('{"runs": []}', "compare --resume --out there", "not that of a comparison: it has no list of runs"),
        ('{"runs": [{"algorithm": "ppp"}]}', "compare --resume --out there", "unknown algorithm 'ppp'"),
        ('{"runs": [{"env": "ant"}]}', "compare --resume --out there", "unknown algorithm ''"),
        ('{"runs": []}', "compare --resume", "missing: --out DIR"),
        ('{"runs": []}', "compare --resume --out there --budget 2", "unrecognized options: --budget"),
    ],
)
def test_what_is_no_comparison_is_told(config, line, said, in_tmp, capsys):
    if config is not None:
        (in_tmp / "there").mkdir()
        (in_tmp / "there" / "config.json").write_text(config)
    assert main(line.split()) == 2
    assert said in last_line(capsys)


def test_the_title_of_an_environment_has_the_steps_of_all_that_learn_in_it():
    """They are rounded up, for each algorithm to its own updates."""
    plans = [
        SimpleNamespace(env="ant", backend="spring", schedule=SimpleNamespace(seeds="1 seed", steps=steps))
        for steps in (3_020_800, 3_010_560, 3_010_560)
    ]
    assert group_title(plans) == "ant, spring: 1 seed, 3.01M to 3.02M steps each"
    assert group_title(plans[1:]) == "ant, spring: 1 seed, 3.01M steps each"
