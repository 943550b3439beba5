"""SIGINT and SIGTERM while a run is going on: acknowledged at once, obeyed at the next opportunity, or at once.

Python acts on a signal between two steps of its own, and a compilation, or a chunk on the device, is one step that may
take a minute. So a thread of its own hears of the signal as it comes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from polopt_jax import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 3.0
"""Seconds that Python has to act on a second signal, before the process is ended without it."""


class Stop:
    """Which signal arrived, if any."""

    signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


def agreed(stop: Stop, *, wanted: bool = False) -> bool:
    """Whether something is wanted by any of the processes of a run; and a signal that one has heard, all have heard.

    >>> agreed(Stop(), wanted=True), agreed(Stop())
    (True, False)
    """
    number, said = processes.highest(stop.signal_number or 0, wanted)
    stop.signal_number = number or stop.signal_number
    return bool(said)


@contextlib.contextmanager
def stop_on_signals(acknowledge: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """Within it, the first SIGINT or SIGTERM only makes the `Stop` true. A second one ends the process.

    `acknowledge` is called when the first arrives, at once, in another thread. The second acts as it always does; if
    Python cannot act within three seconds, as a compilation keeps it, the process exits with 128 + the signal's number.
    Outside the main thread, where Python hears of no signals, nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: object) -> None:
        del frame
        stop.signal_number = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    with _heard(acknowledge):
        for number in before:
            signal.signal(number, note)
        try:
            yield stop
        finally:
            restore()


@contextlib.contextmanager
def _heard(acknowledge: Callable[[], None]) -> Iterator[None]:
    """Within it, a thread hears of signals as they come."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    over = threading.Event()
    listener = threading.Thread(target=_listen, args=(read, acknowledge, over), daemon=True)
    previous = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    listener.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(previous)
        os.close(write)
        listener.join()
        os.close(read)


def _listen(read: int, acknowledge: Callable[[], None], over: threading.Event) -> None:
    """Reads the numbers of signals until the other end is closed."""
    heard = 0
    while numbers := os.read(read, 1):
        if numbers[0] not in SIGNALS:
            continue
        heard += 1
        if heard == 1:
            acknowledge()
        elif not over.wait(GRACE):
            os._exit(128 + numbers[0])
