"""SIGINT and SIGTERM as wishes, which the loop grants between chunks."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stop:
    """Which signal arrived, if any."""

    signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Within it, the first SIGINT or SIGTERM only makes the `Stop` true. A second one acts as it always does."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: object) -> None:
        del frame
        stop.signal_number = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in numbers:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
