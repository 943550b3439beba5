"""Going on with a run: to the bit the run that was never interrupted, or a line that says why not."""

import json
import shutil
import signal

import pytest
from small_run import RUN, compiled_once, digests, hashes, interrupt_at, rows_without_times, run_small

from polopt_jax import checkpoint
from polopt_jax.cli import main
from polopt_jax.cli._plan import Plan
from polopt_jax.runs import _loop, _resume


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    """Each test runs in a directory of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def shared():
    """What is tested is how a run goes on, not how it is compiled; that it is compiled alike, `test_driver` tests."""
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shared):
    """A run of twelve updates that nothing disturbed, with all its checkpoints: 0, 5, 10, 12."""
    directory = tmp_path_factory.mktemp("finished") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        save = checkpoint.save
        patch.setattr(checkpoint, "save", lambda *arguments: save(*arguments, keep=9))
        assert run_small("--out", str(directory)) == 0
    assert checkpoint.steps(directory / "checkpoints") == [0, 5, 10, 12]
    return directory


@pytest.fixture
def at_ten(finished, tmp_path):
    """The same run as a kill between updates 11 and 12 leaves it: rows to 11, checkpoints of 5 and 10."""
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    for step in (0, 12):
        shutil.rmtree(directory / "checkpoints" / str(step))
    for name in ("summary.json", "report.html", "curves.png"):
        (directory / name).unlink()
    keep_lines(directory, 11)
    return directory


def keep_lines(directory, number, torn=b""):
    path = directory / "metrics.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:number]) + torn)


def go_on(directory, *words, line=RUN):
    return run_small("--out", str(directory), "--resume", *words, line=line)


def last_line(capsys):
    """The last line on stderr, which must be an error of the command; nothing there may be a traceback."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith("polopt: error: ")
    return line


def assert_same(directory, finished):
    assert digests(directory) == digests(finished)
    assert rows_without_times(directory) == rows_without_times(finished)
    assert json.loads((directory / "summary.json").read_text())["results"][0]["status"] == "finished"


def assert_refused(directory, code, said, capsys, *words, line=RUN):
    """Refused with one line more on stderr, and nothing in the directory is changed."""
    before = hashes(directory)
    capsys.readouterr()
    assert go_on(directory, *words, line=line) == code
    assert said in last_line(capsys)
    assert hashes(directory) == before


# --- going on ------------------------------------------------------------------------------------------------------


def test_a_signal_while_it_compiles_ends_a_run_before_its_first_update(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_loop, "healthy", None)  # not reached
    original = _loop.prepare

    def prepare(*arguments, **keywords):
        signal.raise_signal(signal.SIGTERM)
        return original(*arguments, **keywords)

    monkeypatch.setattr(_loop, "prepare", prepare)
    assert run_small("--out", "run") == 143
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("polopt: interrupted, before the first update was done; go on with: polopt")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["0"]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == b""


def test_a_run_and_its_files_and_going_on_with_it(tmp_path, capsys, monkeypatch):
    """Whole, then interrupted twice and made longer, which must be the same."""
    longer = RUN.replace("384", "416")
    assert run_small("--out", "whole", line=longer) == 0
    out, err = capsys.readouterr()
    assert "actor_critic" in out
    assert "compiling" in err
    assert "\x1b" not in out + err
    whole = tmp_path / "whole"
    names = {"config.json", "metrics.jsonl", "checkpoints", "curves.png", "report.html", "summary.json", ".lock"}
    assert {path.name for path in whole.iterdir()} == names
    config = json.loads((whole / "config.json").read_text())
    assert (config["updates"], config["steps"], config["num_envs"]) == (13, 416, 8)
    rows = rows_without_times(whole)
    assert [row["update"] for row in rows] == list(range(1, 14))
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((whole / "summary.json").read_text())["results"][0]["status"] == "finished"

    parts = tmp_path / "parts"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, signal.SIGINT)
        assert run_small("--out", "parts") == 130
    err = capsys.readouterr().err
    assert err.splitlines()[-1].endswith("saved at update 5; go on with: polopt train --out parts --resume")
    assert digests(parts)[0] == "5"

    with (parts / "metrics.jsonl").open("a") as file:  # as if killed while later chunks were being logged
        file.write((whole / "metrics.jsonl").read_text().splitlines()[5] + "\n" + '{"update": 7, "st')
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8, signal.SIGTERM)
        assert go_on("parts") == 143
    assert digests(parts)[0] == "8"
    assert go_on("parts", line=longer) == 0
    assert digests(parts) == digests(whole)
    assert rows_without_times(parts) == rows

    before = hashes(parts)
    capsys.readouterr()
    assert go_on("parts", "--json", line=longer) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["updates"] == 13
    assert hashes(parts) == before
    assert_refused(
        parts, 2, "seed was 3, now 0; gamma was 0.99, now 0.9", capsys, line=RUN.replace("--seed 3", "--gamma 0.9")
    )
    assert_refused(parts, 2, "steps must be at least the 416", capsys)


def test_a_run_that_was_killed_before_its_first_update_goes_on(finished, tmp_path):
    """There is a checkpoint of update 0 before the log has a row, so a log never stands alone."""
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    checkpoint.discard_after(directory / "checkpoints", 0)
    (directory / "metrics.jsonl").unlink()
    assert go_on(directory) == 0
    assert_same(directory, finished)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins(finished, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    shutil.copy(finished / "config.json", directory)
    (directory / "metrics.jsonl").touch()
    assert go_on(directory) == 0
    assert_same(directory, finished)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "dpo", "trpo"])
def test_the_token_world_is_resumed_with_its_reference(algorithm, tmp_path, capsys, monkeypatch):
    line = f"train {algorithm} --env skip_the_test --num-envs 32 --steps 6144 --num-seeds 2"
    if algorithm == "dpo":
        line += " --num-pairs 64 --max-redraws 4"
    if algorithm == "trpo":
        line = line.replace("32 --steps 6144", "64 --steps 12288")  # eight groups for its eight minibatches
    assert main([*line.split(), "--out", "whole"]) == 0
    assert "KL(language‖it)" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4, signal.SIGINT)
        assert main([*line.split(), "--out", "parts"]) == 130
    shutil.move("parts/reference", "elsewhere")
    assert main([*line.split(), "--out", "parts", "--resume"]) == 5
    assert "there is no checkpoint in parts/reference" in last_line(capsys)
    shutil.move("elsewhere", "parts/reference")
    assert main([*line.split(), "--out", "parts", "--resume"]) == 0
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    assert rows_without_times(tmp_path / "parts") == rows_without_times(tmp_path / "whole")


# --- the log -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [30, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, -1))])
def test_a_torn_last_line_beyond_the_checkpoint_is_done_again(cut, at_ten, finished, capsys):
    line = (at_ten / "metrics.jsonl").read_bytes().splitlines(keepends=True)[10]
    keep_lines(at_ten, 10, line[:cut])
    capsys.readouterr()
    assert go_on(at_ten) == 0
    assert "damaged" not in capsys.readouterr().err
    assert_same(at_ten, finished)


def test_a_log_whose_last_newline_is_lost_is_whole(at_ten, finished):
    path = at_ten / "metrics.jsonl"
    keep_lines(at_ten, 10)
    path.write_bytes(path.read_bytes()[:-1])
    assert go_on(at_ten) == 0
    assert_same(at_ten, finished)


def test_a_damaged_line_beyond_the_checkpoint_is_named_and_done_again(at_ten, finished, capsys):
    keep_lines(at_ten, 10, b'{"update": 11}\n')
    assert go_on(at_ten) == 0
    assert "line 11 of" in capsys.readouterr().err
    assert_same(at_ten, finished)


@pytest.mark.parametrize("torn", [pytest.param(b"", marks=pytest.mark.slow), b'{"update": 10, "ste'])
def test_a_log_cut_at_the_checkpointed_row_goes_back_one_checkpoint_and_says_so(torn, at_ten, finished, capsys):
    keep_lines(at_ten, 9, torn)
    capsys.readouterr()
    assert go_on(at_ten) == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "cut off" in line]
    assert said.endswith("that of the newest checkpoint; going back to the checkpoint of update 5")
    assert_same(at_ten, finished)


def test_a_log_cut_at_the_only_checkpoint_is_refused(at_ten, capsys):
    shutil.rmtree(at_ten / "checkpoints" / "5")
    keep_lines(at_ten, 9, b'{"upd')
    assert_refused(at_ten, 5, "does not reach update 10, that of the checkpoint: line 10 is damaged: it is cut", capsys)


@pytest.mark.parametrize(("lines", "way"), [(8, "delete"), (3, "begin again in another directory"), (0, "begin again")])
def test_a_log_that_ends_before_that_is_refused(lines, way, at_ten, capsys):
    keep_lines(at_ten, lines)
    assert_refused(at_ten, 5, "metrics.jsonl does not reach update 10, that of the checkpoint; put it back", capsys)
    assert go_on(at_ten) == 5
    assert way in last_line(capsys)


EDITS = {
    "empty line": lambda line: b"",
    "no JSON": lambda line: line[:-1],
    "no object": lambda line: b"[1]",
    "a word": lambda line: b"null",
    "no text": lambda line: b"\xff\xfe" + line,
    "UTF-16": lambda line: line.decode().encode("utf-16-le"),
    "nesting": lambda line: b"[" * 100_000,
    "a key twice": lambda line: line[:-1] + b', "update": 4}',
    "a key missing": lambda line: edited(line, lambda row: row.pop("entropy")),
    "no update": lambda line: edited(line, lambda row: row.pop("update")),
    "a key more": lambda line: edited(line, lambda row: row.update(extra=[1.0])),
    "update as text": lambda line: edited(line, lambda row: row.update(update="4")),
    "update as float": lambda line: edited(line, lambda row: row.update(update=4.0)),
    "update as truth": lambda line: edited(line, lambda row: row.update(update=True)),
    "update as list": lambda line: edited(line, lambda row: row.update(update=[4])),
    "update repeated": lambda line: edited(line, lambda row: row.update(update=3)),
    "update skipped": lambda line: edited(line, lambda row: row.update(update=5)),
    "other steps": lambda line: edited(line, lambda row: row.update(steps=1)),
    "seconds as text": lambda line: edited(line, lambda row: row.update(seconds="1")),
    "seconds back": lambda line: edited(line, lambda row: row.update(seconds=-1.0)),
    "seconds null": lambda line: edited(line, lambda row: row.update(compile_seconds=None)),
    "NaN": lambda line: line.replace(b'"loss": [', b'"loss": [NaN], "x": [', 1).replace(b', "x": [', b', "y": [', 1),
    "only NaN": lambda line: edited(line, lambda row: row.update(loss=[float("nan")])),
    "Infinity": lambda line: edited(line, lambda row: row.update(loss=[float("-inf")])),
    "1e400": lambda line: edited(line, lambda row: row.update(loss=[0.25])).replace(b"0.25", b"1e400"),
    "a huge integer": lambda line: edited(line, lambda row: row.update(loss=[10**400])),
    "metric as number": lambda line: edited(line, lambda row: row.update(loss=0.5)),
    "metric as text": lambda line: edited(line, lambda row: row.update(loss=["0.5"])),
    "metric as truth": lambda line: edited(line, lambda row: row.update(loss=[True])),
    "metric of two seeds": lambda line: edited(line, lambda row: row.update(loss=[0.5, 0.5])),
    "reward of no seed": lambda line: edited(line, lambda row: row.update(reward=[])),
    "a nested metric": lambda line: edited(line, lambda row: row.update(loss=[[0.5]])),
}


def edited(line, change):
    row = json.loads(line)
    change(row)
    return json.dumps(row).encode()


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_damaged_line_before_the_checkpoint_is_refused_by_number(edit, at_ten, capsys):
    path = at_ten / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    lines[3] = edit(lines[3])
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert_refused(at_ten, 5, "line 4 is damaged: it", capsys)


def test_a_damaged_line_at_the_checkpoint_is_refused_too(at_ten, capsys):
    """It is whole, so no kill has cut it: going back one checkpoint is left to the user."""
    keep_lines(at_ten, 9, b'{"update": 10}\n')
    assert_refused(at_ten, 5, "line 10 is damaged: it has no", capsys)


@pytest.mark.parametrize("number", [1, 2, 10])
def test_a_lost_line_is_noticed(number, at_ten, capsys):
    path = at_ten / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: number - 1] + lines[number:]))
    assert_refused(at_ten, 5, f"line {number} is damaged: its update is {number + 1}, where {number} is due", capsys)


def test_what_to_delete_is_named_and_helps(at_ten, finished, capsys):
    path = at_ten / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:6], b"?\n", *lines[7:]]))
    assert_refused(
        at_ten, 5, f"delete line 7 and all after it and {at_ten}/checkpoints/10 to go back to update 5", capsys
    )
    keep_lines(at_ten, 6)
    shutil.rmtree(at_ten / "checkpoints" / "10")
    assert go_on(at_ten) == 0
    assert_same(at_ten, finished)


def test_rows_of_other_metrics_are_not_mixed_with_those_of_now(at_ten, capsys):
    path = at_ten / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"entropy"', b'"old name"'))
    assert go_on(at_ten) == 5
    assert "of other metrics than those of this version: entropy, old name" in last_line(capsys)


# --- checkpoints ---------------------------------------------------------------------------------------------------


def test_a_log_without_a_checkpoint_is_refused(at_ten, capsys):
    for step in (5, 10):
        shutil.rmtree(at_ten / "checkpoints" / str(step))
    assert_refused(at_ten, 5, "has rows, but there is no checkpoint in", capsys)
    (at_ten / "checkpoints" / "10").mkdir()
    assert_refused(at_ten, 5, "in another directory; skipped in", capsys)
    shutil.rmtree(at_ten / "checkpoints")
    assert_refused(at_ten, 5, "has rows, but there is no checkpoint in", capsys)
    keep_lines(at_ten, 0, b'{"upd')
    assert_refused(at_ten, 5, "has rows, but there is no checkpoint in", capsys)


def test_incomplete_checkpoints_are_skipped_and_named_in_a_line(at_ten, finished, capsys):
    store = at_ten / "checkpoints"
    shutil.copytree(store / "10", store / "12.orbax-checkpoint-tmp")
    shutil.rmtree(store / "10" / "manifest")
    assert go_on(at_ten) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "because incomplete" in line]
    assert said == [f"skipped in {store}, because incomplete: 10, 12.orbax-checkpoint-tmp"]
    assert_same(at_ten, finished)
    assert sorted(path.name for path in store.iterdir()) == ["10", "12"]


def test_a_run_killed_in_its_very_first_save_begins_again(at_ten, finished, capsys):
    shutil.rmtree(at_ten / "checkpoints")
    (at_ten / "checkpoints" / "0.orbax-checkpoint-tmp").mkdir(parents=True)
    keep_lines(at_ten, 0)
    assert go_on(at_ten) == 0
    assert "because incomplete: 0.orbax-checkpoint-tmp" in capsys.readouterr().err
    assert_same(at_ten, finished)


def test_a_damaged_checkpoint_is_told_in_a_line_with_the_way_back(at_ten, finished, capsys):
    file = at_ten / "checkpoints" / "10" / "state" / "manifest.ocdbt"
    file.write_bytes(bytes(file.stat().st_size))
    assert_refused(at_ten, 5, f"delete {at_ten}/checkpoints/10 to go back to step 5", capsys)
    shutil.rmtree(at_ten / "checkpoints" / "10")
    assert go_on(at_ten) == 0
    assert_same(at_ten, finished)


def test_a_checkpoint_under_another_name_is_refused(at_ten, capsys):
    shutil.rmtree(at_ten / "checkpoints" / "10")
    shutil.copytree(at_ten / "checkpoints" / "5", at_ten / "checkpoints" / "10")
    assert_refused(at_ten, 5, "its manifest is that of step 5", capsys)
    shutil.move(at_ten / "checkpoints" / "10", at_ten / "checkpoints" / "13")
    assert_refused(at_ten, 2, "config.json is damaged: updates is 12, but", capsys)


# --- the config ----------------------------------------------------------------------------------------------------


CONFIGS = [
    (lambda c: c.update(chunk_updates=2), "damaged: chunk_updates is 2, but the rows of"),
    (lambda c: c.update(chunk_updates=12), "damaged: chunk_updates is 12, but the rows of"),
    (lambda c: c.update(chunk_updates=5), "damaged: chunk_updates is 5, with 12 updates"),
    (lambda c: c.update(chunk_updates=True), "damaged: chunk_updates is True"),
    (lambda c: c.update(chunk_updates="1"), "damaged: chunk_updates is '1'"),
    (lambda c: c.update(chunk_updates=0), "damaged: chunk_updates is 0"),
    (lambda c: c.pop("chunk_updates"), "damaged: it has no chunk_updates"),
    (lambda c: c.update(updates=6), "damaged: steps is 384, not the 192 of its updates"),
    (lambda c: c.update(updates=-1), "damaged: updates is -1"),
    (lambda c: c.update(steps=None), "damaged: steps is None"),
    (lambda c: c.pop("hyperparameters"), "damaged: it has no hyperparameters"),
    (lambda c: c.update(hyperparameters=[]), "hyperparameters was []"),
    (lambda c: c["hyperparameters"].pop("gamma"), "gamma was absent, now 0.99"),
    (lambda c: c["hyperparameters"].update(gamma=1), "gamma was 1, now 0.99"),
    (lambda c: c.update(world={"length": 3}), "world was {'length': 3}, now None"),
    (lambda c: c.update(num_seeds=1.0), "num_seeds was 1.0, now 1"),
]


@pytest.mark.parametrize(("change", "said"), CONFIGS, ids=[said for _, said in CONFIGS])
def test_an_edited_config_is_refused_by_key(change, said, at_ten, capsys):
    path = at_ten / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    assert_refused(at_ten, 2, said, capsys, line=RUN.replace("--steps 384", "--steps 768"))


def test_a_config_that_ends_before_its_checkpoint_is_refused(at_ten, capsys):
    path = at_ten / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "updates": 6, "steps": 192}))
    assert_refused(at_ten, 2, "damaged: updates is 6, but", capsys, line=RUN.replace(" --steps 384", ""))


def test_other_versions_are_warned_of_and_other_worlds_refused(at_ten, finished, capsys, monkeypatch):
    path, config = at_ten / "config.json", Plan.config
    stored = json.loads(path.read_text())
    known = {"versions": {"jax": "0.1", "numpy": "2"}, "world": {"length": 8}}
    path.write_text(json.dumps({**stored, **known}))
    now = {"versions": {"jax": "0.2", "numpy": "2"}, "world": {"length": 9}}
    monkeypatch.setattr(Plan, "config", lambda plan: {**config(plan), **now})
    assert_refused(at_ten, 2, "was started with other options: length was 8, now 9", capsys)
    now["world"] = {"length": 8}
    assert go_on(at_ten) == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "jax" in line]
    assert said.endswith("so going on may not be bit for bit: jax was 0.1, now 0.2")
    assert_same(at_ten, finished)
    assert json.loads(path.read_text())["versions"] == now["versions"]
    assert {"versions"} == _resume.WARNED


def test_more_steps_keep_the_chunks_of_the_run(at_ten):
    assert go_on(at_ten, line=RUN.replace("384", "1600")) == 0
    config = json.loads((at_ten / "config.json").read_text())
    assert (config["updates"], config["chunk_updates"], config["steps"]) == (50, 1, 1600)
    assert [row["update"] for row in rows_without_times(at_ten)] == list(range(1, 51))
    assert go_on(at_ten, line=RUN.replace(" --steps 384", "")) == 0  # to its end, wherever that is


# --- finished, or not ----------------------------------------------------------------------------------------------


def test_what_is_finished_is_read_off_the_rows_and_the_checkpoint(at_ten, finished):
    shutil.copy(finished / "summary.json", at_ten)  # it says finished, and is wrong
    assert go_on(at_ten) == 0
    assert_same(at_ten, finished)


@pytest.mark.parametrize("summary", [None, b"", b"[]", b'{"notes": 1, "results": []}', b'{"notes": [], "results": []}'])
def test_files_that_a_finished_run_lacks_are_written(summary, finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    expected = json.loads((directory / "summary.json").read_text())["results"]
    (directory / "report.html").unlink()
    if summary is None:
        (directory / "summary.json").unlink()
    else:
        (directory / "summary.json").write_bytes(summary)
    assert go_on(directory) == 0
    assert json.loads((directory / "summary.json").read_text())["results"] == expected
    assert (directory / "report.html").exists()
    assert_same(directory, finished)
    before = hashes(directory)
    assert go_on(directory) == 0
    assert hashes(directory) == before


def test_a_finished_run_whose_checkpoint_is_damaged_says_so(finished, tmp_path, capsys):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    (file,) = (directory / "checkpoints" / "12" / "state" / "d").iterdir()
    file.write_bytes(bytes(file.stat().st_size))
    assert_refused(directory, 5, "to go back to step 10", capsys)


# --- the directory alone -------------------------------------------------------------------------------------------


def test_the_directory_is_all_that_need_be_said(at_ten, finished, capsys):
    assert run_small(line=f"train --out {at_ten} --resume") == 0
    assert digests(at_ten) == digests(finished)
    assert json.loads((at_ten / "config.json").read_text()) == json.loads((finished / "config.json").read_text())
    capsys.readouterr()
    assert run_small("--json", line=f"train --resume --out {at_ten}") == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["updates"] == 12


def test_the_directory_knows_what_was_not_default(tmp_path, capsys):
    options = ["--episode-length", "500", "--learning-rate", "0.01", "--num-seeds", "2"]
    assert run_small("--out", "run", *options) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    capsys.readouterr()
    assert run_small(line="train --resume --out run --steps 416") == 0
    after = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {name for name in after if after[name] != config[name]} == {"steps", "updates"}
    assert (after["episode_length"], after["hyperparameters"]["learning_rate"], after["num_seeds"]) == (500, 0.01, 2)


def test_the_directory_and_more_steps(at_ten):
    assert run_small(line=f"train --resume --steps 448 --out {at_ten}") == 0
    assert json.loads((at_ten / "config.json").read_text())["steps"] == 448
    assert digests(at_ten)[0] == "14"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train --resume", "missing: --out DIR"),
        ("train --resume --out nowhere", "there is no nowhere/config.json"),
        ("train --resume --out run --num-envs 4", "unrecognized options: --num-envs, 4"),
        ("train --resume --out run --steps 32", "steps must be at least the 384"),
    ],
)
def test_the_directory_alone_is_refused(line, said, at_ten, capsys):
    before = hashes(at_ten)
    assert main(line.split()) == 2
    assert said.lower() in last_line(capsys).lower()
    assert hashes(at_ten) == before


@pytest.mark.parametrize("change", [{"hyperparameters": 3}, {"num_envs": "8"}, {"world": ...}, {"algorithm": "ppp"}])
def test_a_damaged_config_says_nothing_of_a_run(change, at_ten, capsys):
    path = at_ten / "config.json"
    config = json.loads(path.read_text())
    for name, value in change.items():
        if value is ...:
            del config[name]
        else:
            config[name] = value
    path.write_text(json.dumps(config))
    before = hashes(at_ten)
    assert main(["train", "--resume", "--out", str(at_ten)]) == 2
    last_line(capsys)
    assert hashes(at_ten) == before


def test_another_algorithm_is_all_that_is_told(at_ten, capsys):
    line = RUN.replace("actor_critic", "ppo")
    assert_refused(at_ten, 2, "other options: algorithm was actor_critic, now ppo", capsys, line=line)
    assert main([*line.split(), "--out", str(at_ten), "--resume"]) == 2
    assert last_line(capsys).endswith("other options: algorithm was actor_critic, now ppo")
