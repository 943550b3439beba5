"""Learning from a person's own texts, which lie on the host: examples in files, and rewards in Python.

An update is compiled, and between two of them the host gathers what the next one learns from (`driver.Hosted`).
`imitation` learns whole texts, `from_pairs` and `from_labels` preferences, `from_rewards` what a function makes of
answers; `complete_prompts` shows what came of it.
"""

from polopt_jax.texts._examples import Examples, examples, places_of, split_records
from polopt_jax.texts._fed import HELD, from_labels, from_pairs, imitation, with_reference
from polopt_jax.texts._learning import REFERENCE, Learning, Optimization
from polopt_jax.texts._members import GROUPED, PAIRED, UNPAIRED, Grouped, Labels, Unpaired
from polopt_jax.texts._samples import Completion, complete_prompts
from polopt_jax.texts._scored import Answers, UnscoredWarning, answer_texts, from_rewards

__all__ = [
    "GROUPED",
    "HELD",
    "PAIRED",
    "REFERENCE",
    "UNPAIRED",
    "Answers",
    "Completion",
    "Examples",
    "Grouped",
    "Labels",
    "Learning",
    "Optimization",
    "Unpaired",
    "UnscoredWarning",
    "answer_texts",
    "complete_prompts",
    "examples",
    "from_labels",
    "from_pairs",
    "from_rewards",
    "imitation",
    "places_of",
    "split_records",
    "with_reference",
]
