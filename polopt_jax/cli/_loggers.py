"""`--log-to`: where the numbers of a run go besides its log."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from polopt_jax import loggers, runs
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._text_plan import TextPlan
from polopt_jax.cli._words import UsageError

CSV, EVENTS, PROJECT = "metrics.csv", "tensorboard", "polopt"
"""The file and the folder in the run directory, and the project of Weights & Biases."""


@contextlib.contextmanager
def telling(plan: Plan | TextPlan, start: runs.Start) -> Iterator[Callable[[runs.Row], None]]:
    """What is to be told each row of a run, which goes on from `start`.

    Raises UsageError if a file that is there cannot be gone on with.
    """
    directory = start.directory
    after = start.rows[-1]["steps"] if start.rows else 0

    def values(row: runs.Row) -> dict[str, float | None]:
        return runs.scalars({name: x for name, x in row.items() if name != "steps"}, plan.schedule)

    @contextlib.contextmanager
    def spreadsheet() -> Iterator[loggers.Logger]:
        """With every row of the run's log before: whatever became of the file, or if there was none."""
        file, new = directory / CSV, directory / f"{CSV}.new"
        if start.rows:
            new.unlink(missing_ok=True)
            with loggers.csv_logger(new) as log:
                for row in start.rows:
                    log(row["steps"], values(row))
            new.replace(file)
        with loggers.csv_logger(file, after=after) as log:
            yield log

    makers: dict[str, Callable[[], Any]] = {
        "csv": spreadsheet,
        "tensorboard": lambda: loggers.tensorboard_logger(directory / EVENTS, after=after),
        "wandb": lambda: loggers.wandb_logger(
            project=PROJECT, name=directory.name, dir=str(directory), config=plan.config()
        ),
    }
    with contextlib.ExitStack() as opened:
        try:
            logs = [opened.enter_context(makers[name]()) for name in plan.log_to]
        except ValueError as error:
            raise UsageError(f"--log-to: {error}") from error

        def tell(row: runs.Row) -> None:
            for log in logs:
                log(row["steps"], values(row))

        yield tell
