"""A run on a disk that fails, and a run that is killed: one line and exit code 6, and going on is exact."""

import errno
import os
import signal
import subprocess

import pytest
from small_run import RUN, digests, rows_without_times, run_in_process, run_small

from polopt_jax import checkpoint
from polopt_jax.runs import _directory, _log, _loop

SHORT = RUN.replace("384", "192")
"""Six updates, with checkpoints of 0, 5 and 6."""


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    """Each test runs in a directory of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run comes to that nothing disturbs: checkpoint and rows."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert run_small("--out", str(directory), line=SHORT) == 0
    return digests(directory), rows_without_times(directory)


def told(err):
    """The only error on stderr, in its last line; there is no traceback and no warning."""
    *before, line = err.splitlines()
    assert line.startswith("polopt: error: ")
    assert all(text.startswith(("actor_critic", "skipped in ", "run")) for text in before), before
    return line


def assert_ends_as(whole, directory):
    """Going on, with --resume if there is a run already, ends as if nothing had happened."""
    words = ["--resume"] if (directory / "config.json").exists() else []
    assert run_small("--out", str(directory), *words, line=SHORT) == 0
    assert (digests(directory), rows_without_times(directory)) == whole
    kept = {path.name for path in directory.iterdir()}
    assert kept == {".lock", "checkpoints", "config.json", "curves.png", "metrics.jsonl", "report.html", "summary.json"}


def fail_at(patch, name, number, code, directory):
    """Makes the call `number` of a function of `os` that concerns a file of the directory fail; returns the calls."""
    original, calls = getattr(os, name), []

    def call(descriptor, *arguments):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.startswith(str(directory)):
            calls.append(path)
            if len(calls) == number:
                raise OSError(code, os.strerror(code))
        return original(descriptor, *arguments)

    patch.setattr(os, name, call)
    return calls


@pytest.fixture(scope="module")
def files_touched(tmp_path_factory):
    """The files, in order, of every call of `os.write` and of `os.fsync` in a run, relative to its directory."""
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("asks Linux which file a descriptor is")
    directory = tmp_path_factory.mktemp("calls") / "run"
    with pytest.MonkeyPatch.context() as patch:
        calls = {name: fail_at(patch, name, 0, 0, directory) for name in ("write", "fsync")}
        assert run_small("--out", str(directory), line=SHORT) == 0
    return {name: [path.removeprefix(str(directory)) for path in paths] for name, paths in calls.items()}


slow = pytest.mark.slow
FAILURES = [
    ("write", ".lock", errno.ENOSPC),
    pytest.param("write", "config.json", errno.ENOSPC, marks=slow),
    ("write", "metrics.jsonl", errno.ENOSPC),
    pytest.param("write", "metrics.jsonl", errno.EDQUOT, marks=slow),
    pytest.param("write", "curves.png", errno.EDQUOT, marks=slow),
    pytest.param("write", "report.html", errno.EIO, marks=slow),
    pytest.param("write", "summary.json", errno.ENOSPC, marks=slow),
    pytest.param("fsync", "config.json", errno.EIO, marks=slow),
    ("fsync", "metrics.jsonl", errno.EIO),
    pytest.param("fsync", "checkpoints", errno.ENOSPC, marks=slow),
    pytest.param("fsync", "summary.json", errno.EDQUOT, marks=slow),
]


@pytest.mark.parametrize(("name", "kind", "code"), FAILURES)
def test_a_write_that_fails_ends_with_6_and_a_line(
    name, kind, code, files_touched, whole, tmp_path, capsys, monkeypatch
):
    """The first and the last write (or sync) of every kind of file."""
    numbers = [number for number, path in enumerate(files_touched[name], start=1) if kind in path]
    for number in {numbers[0], numbers[-1]}:
        directory = tmp_path / f"run-{number}"
        capsys.readouterr()
        with monkeypatch.context() as patch:
            fail_at(patch, name, number, code, directory)
            assert run_small("--out", directory.name, line=SHORT) == 6
        line = told(capsys.readouterr().err)
        assert os.strerror(code) in line
        assert directory.name in line
        for step in checkpoint.steps(directory / "checkpoints"):
            checkpoint.check(directory / "checkpoints", step=step)
        assert_ends_as(whole, directory)


def test_writes_that_the_system_takes_in_parts_are_completed(whole, tmp_path, monkeypatch):
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
        assert run_small("--out", "run", line=SHORT) == 0
    assert (digests(tmp_path / "run"), rows_without_times(tmp_path / "run")) == whole


@pytest.mark.parametrize("limit", [100, *(pytest.param(n, marks=slow) for n in (0, 5, 200, 700, 1500, 30_000))])
def test_a_file_size_limit_ends_with_6_and_a_line(limit, whole, tmp_path):
    """Nothing, the config, a checkpoint, the log or the curves is too large; SIGXFSZ does not kill silently."""
    program = (
        f"import resource; small_run.run_small.__kwdefaults__['line'] = {SHORT!r}\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        "import jax; jax.config.update('jax_enable_compilation_cache', False)"
    )
    done = run_in_process(program, "--out", "run")
    assert done.returncode == 6, done.stderr
    line = told(done.stderr)
    assert "File too large" in line
    assert_ends_as(whole, tmp_path / "run")


def mount(directory, size, options="size"):
    """Whether a file system of so many KiB could be mounted there: by root only."""
    command = ["mount", "-t", "tmpfs", "-o", f"{options}={size}k", "tmpfs", directory]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("size", [60, *(pytest.param(n, marks=slow) for n in (4, 12, 100, 130, 180))])
def test_a_full_disk_ends_with_6_and_a_line_and_with_more_room_the_run_goes_on(size, whole, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mount(disk, size):
        pytest.skip("a small file system can be mounted by root only")
    try:
        assert run_small("--out", "disk/run", line=SHORT) == 6
        assert "No space left on device" in told(capsys.readouterr().err.replace("disk/run", "run"))
        subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
        assert_ends_as(whole, disk / "run")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


# --- order ---------------------------------------------------------------------------------------------------------


def test_the_log_is_on_disk_before_a_checkpoint_is_saved(monkeypatch):
    events = []

    def record(owner, name):
        original = getattr(owner, name)

        def call(*arguments):
            events.append(f"{name} {arguments[1]}" if name == "save" else name)
            return original(*arguments)

        monkeypatch.setattr(owner, name, call)

    record(_log.Log, "append")
    record(_log.Log, "sync")
    record(checkpoint, "save")
    assert run_small("--out", "run", line=SHORT) == 0
    rows = ["append"] * 5
    assert events == ["save 0", *rows, "sync", "save 5", "append", "sync", "save 6", "sync"]


def test_checkpoints_come_by_time_too(monkeypatch):
    """A clock on which each chunk takes 25 seconds: after 3 chunks, 75 seconds, it is time."""
    clock, saved = [0.0], []
    chunk_row, save = _loop.chunk_row, checkpoint.save

    def slow_chunk_row(*arguments, **keywords):
        clock[0] += 25.0
        return chunk_row(*arguments, **keywords)

    def noted_save(directory, step, state):
        saved.append(step)
        save(directory, step, state)

    monkeypatch.setattr(_loop, "chunk_row", slow_chunk_row)
    monkeypatch.setattr(_loop.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoint, "save", noted_save)
    assert run_small("--out", "run") == 0
    assert saved == [0, 3, 5, 8, 10, 12]


# --- kills ---------------------------------------------------------------------------------------------------------

KILL = """
import os, signal
from polopt_jax import checkpoint
from polopt_jax.cli import _train
from polopt_jax.runs import _loop
small_run.run_small.__kwdefaults__["line"] = {line!r}
WRITING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree", "os.truncate")
countdown = None

def hook(event, arguments):
    global countdown
    if countdown is not None and event in WRITING:
        countdown -= 1
        if countdown < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)

def armed(function, wanted):
    def call(*arguments):
        global countdown
        countdown = {calls} if wanted(*arguments) else None
        function(*arguments)
        countdown = None
    return call

{what}
"""
SAVING = "checkpoint.save = armed(checkpoint.save, lambda directory, step, state: step == 5)"
SETTLING = "_loop.settle = armed(_loop.settle, lambda *_: True)"
WRITING_FILES = "_train.write_files = armed(_train.write_files, lambda *_: True)"


def killed(what, calls, *words):
    program = KILL.format(line=SHORT, calls=calls, what=what)
    done = run_in_process(program, "--out", "run", *words)
    return done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("calls", [13, *(pytest.param(n, marks=slow) for n in (0, 24, *range(2, 45, 3)))])
def test_a_run_killed_while_it_saves_goes_on_exactly(calls, whole, tmp_path):
    """SIGKILL at a call into the file system during the save of update 5, from the first to the one after the last."""
    directory = tmp_path / "run"
    assert killed(SAVING, calls) or calls > 30
    assert checkpoint.steps(directory / "checkpoints")[-1] in ((0, 5) if calls < 30 else (0, 5, 6))
    assert len(checkpoint.unfinished(directory / "checkpoints")) <= 1
    assert_ends_as(whole, directory)
    assert checkpoint.unfinished(directory / "checkpoints") == []


@pytest.mark.parametrize("calls", [2, *(pytest.param(n, marks=slow) for n in (0, 1, 4))])
def test_a_run_killed_while_it_goes_back_goes_on_exactly(calls, whole, tmp_path):
    """From update 5 to 0, because the log is cut: after each step of that, the files still fit each other."""
    directory = tmp_path / "run"
    assert killed(SAVING.replace("5", "6"), 0)
    assert checkpoint.steps(directory / "checkpoints") == [0, 5]
    path = directory / "metrics.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]) + b'{"update": 5')
    assert killed(SETTLING, calls, "--resume")
    assert_ends_as(whole, directory)


@pytest.mark.parametrize("calls", [3, *(pytest.param(n, marks=slow) for n in (0, 6))])
def test_a_run_killed_while_its_report_is_written_is_finished_when_it_goes_on(calls, whole, tmp_path):
    assert killed(WRITING_FILES, calls)
    assert not (tmp_path / "run" / "summary.json").exists()
    assert_ends_as(whole, tmp_path / "run")


def test_what_a_kill_leaves_of_a_file_is_cleared_away_and_is_no_obstacle(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / f"{_directory.TEMPORARY}config.json.abc").write_text("{")
    assert run_small("--out", "run", line=SHORT) == 0
    assert not any(path.name.startswith(_directory.TEMPORARY) for path in directory.iterdir())


def test_write_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    _directory.write(path, "old")
    for name in ("write", "fsync", "fchmod", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
            with pytest.raises(OSError, match=f"disk full: '{path}'"):
                _directory.write(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
    _directory.write(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o644)
