"""The benchmark of outcomes: objectives x worlds, learnt from attempts and read at matched success.

`measure` runs one method in one world; `read` and `project` make the rows of a table of what it found; `monitors` and
`forecasts` say what would have told before. `polopt outcomes` puts them together.
"""

from polopt_jax.suite._cases import CASES, Case, table_case
from polopt_jax.suite._estimators import PARTS, Quality, qualities
from polopt_jax.suite._methods import METHODS, Row, middle
from polopt_jax.suite._own import import_case
from polopt_jax.suite._readings import (
    COLUMNS,
    Interval,
    Projected,
    Reading,
    as_array,
    interval,
    project,
    read,
    reference_law,
    table_kl,
)
from polopt_jax.suite._runs import LEVELS, measure, references
from polopt_jax.suite._signals import BINS, WATCHED, Foreseen, auc, forecasts, foreseen, monitors

__all__ = [
    "BINS",
    "CASES",
    "COLUMNS",
    "LEVELS",
    "METHODS",
    "PARTS",
    "WATCHED",
    "Case",
    "Foreseen",
    "Interval",
    "Projected",
    "Quality",
    "Reading",
    "Row",
    "as_array",
    "auc",
    "forecasts",
    "foreseen",
    "import_case",
    "interval",
    "measure",
    "middle",
    "monitors",
    "project",
    "qualities",
    "read",
    "reference_law",
    "references",
    "table_case",
    "table_kl",
]
