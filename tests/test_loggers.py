"""Loggers: what they write is read back with other readers; going on forgets what is done again."""

import contextlib
import csv
import sys
import types

import pytest

from polopt_jax import loggers
from polopt_jax.runs import Schedule, scalars


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_spreadsheet_has_a_line_for_each_call(tmp_path):
    path = tmp_path / "a.csv"
    with loggers.csv_logger(path) as log:
        log(3, {"reward": 0.1, "a,b": 1e-30})
        assert read(path) == [{"step": "3", "reward": "0.1", "a,b": "1e-30"}], "on disk before the next"
        log(6, {"a,b": None, "reward": 2})
    assert read(path)[1] == {"step": "6", "reward": "2", "a,b": ""}


def test_a_spreadsheet_is_not_written_over(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("mine")
    with pytest.raises(FileExistsError), loggers.csv_logger(path):
        pass
    assert path.read_text() == "mine"


@pytest.mark.parametrize("names", [{"x": 1.0}, {"x": 1.0, "y": 1.0, "z": 1.0}, {"x": 1.0, "z": 1.0}])
def test_the_columns_of_a_spreadsheet_stay(names, tmp_path):
    with loggers.csv_logger(tmp_path / "a.csv") as log:
        log(1, {"x": 0.0, "y": 0.0})
        with pytest.raises(ValueError, match="has the columns x, y; it was given x"):
            log(2, names)
    assert len(read(tmp_path / "a.csv")) == 1


def test_going_on_forgets_what_comes_after(tmp_path):
    path = tmp_path / "a.csv"
    with loggers.csv_logger(path) as log:
        for step in (1, 2, 3):
            log(step, {"x": step / 2})
    with path.open("a") as file:
        file.write("4,")  # what a kill leaves: a line without an end
    with loggers.csv_logger(path, after=2) as log:
        log(3, {"x": 9.0})
    assert [(row["step"], row["x"]) for row in read(path)] == [("1", "0.5"), ("2", "1.0"), ("3", "9.0")]
    with loggers.csv_logger(path, after=0):
        pass
    assert path.read_text() == "step,x\n"
    with loggers.csv_logger(tmp_path / "new.csv", after=5) as log:
        log(6, {"x": 1.0})
    assert read(tmp_path / "new.csv") == [{"step": "6", "x": "1.0"}]


def test_somebody_elses_spreadsheet_is_left_as_it_is(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("name,age\nx,3\n")
    with pytest.raises(ValueError, match="its first column is not step"), loggers.csv_logger(path, after=1):
        pass
    assert path.read_text() == "name,age\nx,3\n"


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    with loggers.tensorboard_logger(tmp_path) as log:
        log(8, {"reward": 0.25, "unknown": None})
        log(16, {"reward": 0.5, "unknown": None})
    (path,) = tmp_path.iterdir()
    data, events = path.read_bytes(), []
    while data:  # length (8 bytes), its checksum (4), the event, its checksum (4)
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    found = [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
    assert found == [(8, "reward", 0.25), (16, "reward", 0.5)]


def test_tensorboard_is_told_what_to_forget(tmp_path, monkeypatch):
    asked = []

    class Writer(contextlib.nullcontext):
        def __init__(self, directory, **options):
            super().__init__(self)
            asked.append((directory, options))

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    for after in (None, 64):
        with loggers.tensorboard_logger(tmp_path, after=after):
            pass
    assert asked == [(str(tmp_path), {}), (str(tmp_path), {"purge_step": 65})]


def test_wandb_is_told_and_closed(monkeypatch):
    told = []
    run = types.SimpleNamespace(
        log=lambda values, step: told.append((step, values)), finish=lambda: told.append("finished")
    )

    def init(**options):
        told.append(options)
        return run

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))

    def fail_after(log):
        log(5, {"reward": 1.0, "unknown": None})
        raise KeyError

    with pytest.raises(KeyError), loggers.wandb_logger(project="p", config={"a": 1}) as log:
        fail_after(log)
    assert told == [{"project": "p", "config": {"a": 1}}, (5, {"reward": 1.0}), "finished"]


@pytest.mark.parametrize(
    ("package", "make"),
    [("tensorboardX", lambda: loggers.tensorboard_logger("x")), ("wandb", lambda: loggers.wandb_logger())],
)
def test_a_package_that_is_missing_is_named(package, make, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(loggers.MissingPackage, match=f"needs the package {package}: pip install {package}"), make():
        pass


def test_a_row_of_one_seed_has_one_number_for_each_name():
    row = {"steps": 8, "reward": [3.0], "eval/return": [None]}
    assert scalars(row, Schedule(7, 1, 8, 1, 1)) == {"steps": 8, "reward": 3.0, "eval/return": None}


def test_a_spreadsheet_that_goes_on_is_never_without_its_lines(tmp_path):
    path = tmp_path / "a.csv"
    with loggers.csv_logger(path) as log:
        for step in (1, 2, 3):
            log(step, {"x": float(step)})
    with loggers.csv_logger(path, after=2):  # as a kill before the first new line finds it
        assert [line["step"] for line in read(path)] == ["1", "2"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]


def test_an_empty_file_is_gone_on_with_as_none(tmp_path):
    path = tmp_path / "a.csv"
    path.touch()
    with loggers.csv_logger(path, after=2) as log:
        log(3, {"x": 1.0})
    assert read(path) == [{"step": "3", "x": "1.0"}]
