"""Interrupts: acknowledged at once, also while Python is kept in C; what a second one does; nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from small_run import ENVIRON

from polopt_jax import runs

KEPT = """
import hashlib, sys
from polopt_jax import runs
with runs.stop_on_signals(lambda: print("heard", flush=True)) as stop:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})     # one step of Python's, without its lock, as a compilation is
    print("stop", stop.signal_number, flush=True)
print("after", flush=True)
"""


@pytest.fixture
def kept():
    """Starts a process that is kept in C for so many rounds (a million take some half a second), and is ready."""
    started = []

    def start(rounds):
        program = [sys.executable, "-c", KEPT.format(rounds=rounds)]
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRON)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heard_while_python_is_kept_and_obeyed_after(number, kept):
    process = kept(8_000_000)
    began = time.monotonic()
    process.send_signal(number)
    assert process.stdout.readline() == "heard\n"
    heard = time.monotonic() - began
    assert process.stdout.readline() == f"stop {int(number)}\n"
    assert heard < 0.5 * (time.monotonic() - began), "heard long before Python could act"
    assert process.stdout.readline() == "after\n"
    assert process.wait(10) == 0


def test_a_second_signal_ends_what_cannot_act(kept):
    process = kept(2_000_000_000)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "heard\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    assert process.stdout.read() == "", "acknowledged once"


def test_the_second_signal_acts_as_it_always_does_where_python_can():
    heard = []

    def twice():
        with runs.stop_on_signals(lambda: heard.append(threading.current_thread().name)) as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            twice()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(heard) == 1
    assert heard[0] != threading.main_thread().name


def test_nothing_is_left_behind():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads, open_files = threading.active_count(), len(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else 0
    with runs.stop_on_signals() as stop:
        assert not stop
        assert signal.getsignal(signal.SIGTERM) != handlers[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert threading.active_count() == threads
    assert open_files == (len(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else 0)
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_hears_nothing():
    found = []

    def run():
        with runs.stop_on_signals() as stop:
            found.append(bool(stop))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
