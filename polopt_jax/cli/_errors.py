"""What ends the command early. Each is told in one line on stderr and has an exit code of its own."""


class CommandError(Exception):
    """The command cannot go on; `str(error)` says why, in one line."""

    exit_code = 1


class UsageError(CommandError):
    """What was asked for makes no sense or is not possible. Nothing was started."""

    exit_code = 2


class NonFiniteError(CommandError):
    """Training broke down: in every seed the numbers are no longer finite, or the policy cannot move."""

    exit_code = 3


class CheckpointUnusable(CommandError):
    """What a run would go on from, its checkpoint or its log, is missing, damaged, or of another run."""

    exit_code = 5


class FileError(CommandError):
    """A file could not be written: a full disk, say. What was there before is as it was."""

    exit_code = 6


class Interrupted(CommandError):
    """SIGINT or SIGTERM arrived, and what there was to save is saved."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def one_line(text: str) -> str:
    """`text` in one line, with nothing in it that a terminal would obey.

    >>> one_line("a\\n b\\x1b[31m")
    'a b\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
