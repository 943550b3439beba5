"""The study: is it the objective, the initialisation or the scale that decides how a task is done?

`docs/study.md` registers it. `measure` runs one objective at one scale in one world, from every start.
"""

from polopt_jax.study._ground import Ground, Learner, Standing
from polopt_jax.study._grounds import GROUNDS
from polopt_jax.study._objectives import OBJECTIVES, objective
from polopt_jax.study._runs import LEVELS, begin, measure

__all__ = ["GROUNDS", "LEVELS", "OBJECTIVES", "Ground", "Learner", "Standing", "begin", "measure", "objective"]
