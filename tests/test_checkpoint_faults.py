"""Checkpoints on a disk that fails, and in a process that dies: what was saved before stays, and loads."""

import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax import checkpoint
from polopt_jax._orbax import quiet_orbax, reason
from polopt_jax.checkpoint import CheckpointError, SaveError
from polopt_jax.leaves import leaves_of

ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def run(program, *arguments):
    """A program in a process of its own, and what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, env=ENVIRON, timeout=250
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


STATE = """
import json, os, resource, subprocess, sys
from pathlib import Path
import numpy as np
from polopt_jax import checkpoint

def state(step):
    return {"w": np.random.default_rng(step).normal(size=(64, 64)).astype(np.float32), "n": np.int32(step)}
"""

FILE_SIZES = (
    STATE
    + """
directory, said = Path(sys.argv[1]), []
for step in (1, 2):
    checkpoint.save(directory, step, state(step))
for limit in (0, 30, 60, 100, 200, 300, 1000, 4000, 8000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoint.save(directory, 3, state(3))
    except checkpoint.SaveError as error:
        said.append(str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
entries = sorted(os.listdir(directory))
restored, step = checkpoint.restore(directory, state(0))
checkpoint.save(directory, 3, state(3))
same = restored["w"].tobytes() == state(2)["w"].tobytes()
print(json.dumps([said, entries, step, same, checkpoint.steps(directory)]))
"""
)


def test_no_file_size_limit_damages_what_was_saved(tmp_path):
    """SIGXFSZ is ignored by Python, so a write beyond the limit fails instead of killing the process."""
    said, entries, step, same, afterwards = run(FILE_SIZES, tmp_path)
    assert len(said) == 9
    assert all(line.startswith(f"step 3 could not be saved in {tmp_path}: ") and "\n" not in line for line in said)
    assert (entries, step, same, afterwards) == (["1", "2"], 2, True, [2, 3])


class RaisingThread(threading.Thread):
    """A thread of which, as of orbax's, `join` raises what it raised."""

    def join(self, timeout=None):
        super().join(timeout)
        raise ValueError("what the thread raised")


def test_a_failure_is_told_when_the_threads_it_leaves_have_ended(capfd):
    """They log, late; half of them have ended long before the others."""

    def work(seconds):
        time.sleep(seconds)
        logging.getLogger("absl").error("too late")

    threads = [RaisingThread(target=work, args=(0.3 * (i % 2),)) for i in range(8)]

    def fail():
        for thread in threads:
            thread.start()
        raise KeyError

    with pytest.raises(KeyError), quiet_orbax():
        fail()
    assert not any(thread.is_alive() for thread in threads)
    assert capfd.readouterr() == ("", "")


FULL_DISK = (
    STATE
    + """
directory, failed = Path(sys.argv[1]), 0
for pages in range(14, 50):
    command = ["mount", "-t", "tmpfs", "-o", f"size={4 * pages}k", "tmpfs", directory]
    if subprocess.run(command, capture_output=True).returncode:
        print("null")
        sys.exit()
    try:
        checkpoint.save(directory, 1, state(1))
        try:
            checkpoint.save(directory, 2, state(2))
        except checkpoint.SaveError as error:
            failed += 1
            assert "\\n" not in str(error), error
            assert os.listdir(directory) == ["1"], os.listdir(directory)
            newest = 1
        else:
            newest = 2
        restored, step = checkpoint.restore(directory, state(0))
        assert (step, restored["w"].tobytes()) == (newest, state(newest)["w"].tobytes())
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
print(json.dumps([failed, step]))
"""
)


def test_a_disk_that_fills_up_at_any_page_keeps_what_was_saved(tmp_path):
    """File systems of 56 to 196 KiB, a page apart: the second save fails at another write in each, then fits."""
    outcome = run(FULL_DISK, tmp_path)
    if outcome is None:
        pytest.skip("a small file system can be mounted by root only")
    failed, last = outcome
    assert 8 < failed < 36
    assert last == 2


def fail_at(monkeypatch, name, number, code):
    """Makes the call `number` of a function of `os` fail; returns the list of all calls."""
    original, calls = getattr(os, name), []

    def call(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == number:
            raise OSError(code, os.strerror(code))
        return original(*arguments, **keywords)

    monkeypatch.setattr(os, name, call)
    return calls


def test_everything_is_synced_to_disk_and_a_failure_to_do_so_is_one_to_save(tmp_path, monkeypatch):
    like = {"x": jnp.zeros(3)}
    checkpoint.save(tmp_path, 1, {"x": jnp.ones(3)})
    opened = {}
    original = os.open
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "open", lambda path, *rest: opened.setdefault(original(path, *rest), str(path)) and max(opened)
        )
        calls = fail_at(patch, "fsync", 0, 0)
        patch.setattr(os, "close", lambda descriptor: None)  # so that each descriptor is another
        checkpoint.save(tmp_path, 2, {"x": jnp.ones(3)})
    for descriptor in opened:
        os.close(descriptor)
    synced = [opened[descriptor] for (descriptor,) in calls if descriptor in opened]
    assert {str(path) for path in ((tmp_path / "2"), *(tmp_path / "2").rglob("*"))} < set(synced)
    assert synced[-1] == str(tmp_path)
    for number in range(1, len(synced) + 1):
        for code in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            with monkeypatch.context() as patch:
                fail_at(patch, "fsync", number, code)
                with pytest.raises(SaveError, match=os.strerror(code)):
                    checkpoint.save(tmp_path, 3, {"x": jnp.ones(3)})
            assert checkpoint.steps(tmp_path) == [1, 2]
    assert checkpoint.restore(tmp_path, like)[1] == 2


def test_an_older_step_that_cannot_be_removed_is_told_and_does_not_look_like_a_step(tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"x": jnp.full(2, step)})
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(SaveError, match="an older step could not be removed from .*: Input/output error"):
            checkpoint.save(tmp_path, 3, {"x": jnp.full(2, 3)})
    assert (checkpoint.steps(tmp_path), checkpoint.unfinished(tmp_path)) == ([2, 3], [])
    checkpoint.save(tmp_path, 4, {"x": jnp.full(2, 4)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def test_a_directory_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"step 1 could not be saved in .*file/checkpoints: Not a directory"):
        checkpoint.save(tmp_path / "file" / "checkpoints", 1, {"x": jnp.ones(2)})
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.restore(tmp_path / "file" / "checkpoints", {"x": jnp.ones(2)})


CRASHES = (
    STATE
    + """
# Dies at the k-th call into the file system of a save, for every k: the process forks, and the child does not return.
import contextlib, orbax.checkpoint
WRITING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree")
directory, countdown, outcomes = Path(sys.argv[1]), None, []

def hook(event, arguments):
    global countdown
    if countdown is not None and event in WRITING:
        countdown -= 1
        if countdown < 0:
            os._exit(9)

sys.addaudithook(hook)

def in_child(work):
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def save(step, calls=None):
    global countdown
    countdown = calls
    checkpoint.save(directory, step, state(step))

def newest_is_whole(wanted):
    restored, step = checkpoint.restore(directory, state(0))
    assert restored["w"].tobytes() == state(step)["w"].tobytes()
    assert step in wanted
    assert len([name for name in os.listdir(directory) if not name.isdecimal()]) <= 2

assert in_child(lambda: (save(1), save(2))) == 0
step, calls, code = 2, 0, 9
while code == 9:
    known = checkpoint.steps(directory)[-1]
    code = in_child(lambda: save(known + 1, calls))
    checked = in_child(lambda: newest_is_whole((known, known + 1)))
    outcomes.append((code, checked, checkpoint.steps(directory)[-1] - known))
    calls += int(sys.argv[2])
print(json.dumps(outcomes))
"""
)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_dies_at_any_call_of_a_save_leaves_the_newest_step_whole(stride, tmp_path):
    outcomes = run(CRASHES, tmp_path, stride)
    *died, (code, _, advanced) = outcomes
    assert len(died) >= 40 / stride
    assert {(code, checked) for code, checked, _ in died} == {(9, 0)}
    assert {advanced for *_, advanced in died} == {0, 1}, "some die before the rename, some after it"
    assert (code, advanced) == (0, 1)


def test_the_newest_of_many_saves_is_what_was_saved(tmp_path):
    rng = np.random.default_rng(0)
    for step in range(5):
        state = {f"leaf {i}": rng.normal(size=rng.integers(0, 5, 3)) for i in range(step)}
        checkpoint.save(tmp_path, step, state)
        restored, _ = checkpoint.restore(tmp_path, {name: x.astype(np.float64) for name, x in state.items()})
        assert {k: x.shape for k, x in leaves_of(restored).items()} == {k: x.shape for k, x in leaves_of(state).items()}


def test_what_is_wrong_is_told_in_a_line_of_some_length():
    assert reason(ValueError("short")) == "short"
    assert reason(ValueError("x" * 5000)) == "x" * 200 + " ..."
