"""The study: is it the objective, the initialisation or the scale that decides how a task is done?

`docs/study.md` registers it. `measure` runs one objective at one scale in one world, from one start; `response`,
`share_intervals` and `verdicts` say what the runs say. `polopt study` puts them together.
"""

from polopt_jax.study._analysis import (
    FACTORS,
    MATCHED,
    Response,
    chosen,
    logit,
    mean_interval,
    rate,
    response,
    share_intervals,
    shares,
)
from polopt_jax.study._ground import Ground, Learner, Standing
from polopt_jax.study._grounds import GROUNDS
from polopt_jax.study._objectives import OBJECTIVES, SEEDS, objective
from polopt_jax.study._predictors import Predictor, predictors
from polopt_jax.study._runs import LEVELS, begin, from_starts, measure
from polopt_jax.study._verdicts import Verdict, verdicts
from polopt_jax.suite import Interval, as_array, interval

__all__ = [
    "FACTORS",
    "GROUNDS",
    "LEVELS",
    "MATCHED",
    "OBJECTIVES",
    "SEEDS",
    "Ground",
    "Interval",
    "Learner",
    "Predictor",
    "Response",
    "Standing",
    "Verdict",
    "as_array",
    "begin",
    "chosen",
    "from_starts",
    "interval",
    "logit",
    "mean_interval",
    "measure",
    "objective",
    "predictors",
    "rate",
    "response",
    "share_intervals",
    "shares",
    "verdicts",
]
