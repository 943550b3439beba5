"""The families of objectives that learn from texts: their members, what they are made of, what data they want."""

from typing import Any

from polopt_jax import texts
from polopt_jax.cli import _recipes
from polopt_jax.cli._words import UsageError, choose

ALGORITHMS = ("sft", "dpo", "grpo")
"""Those that learn from texts; the first from texts alone."""


def way(algorithm: str, objective: str | None) -> Any:
    """The function of `polopt_jax.texts` that learns so."""
    if algorithm == "sft":
        return texts.imitation
    if algorithm == "grpo":
        return texts.from_rewards
    return texts.from_labels if objective in texts.UNPAIRED else texts.from_pairs


def term_of(algorithm: str, objective: str | None) -> Any:
    """The function that makes the objective; None of imitation."""
    if objective is None:
        return None
    if algorithm == "grpo":
        return texts.GROUPED[objective].term
    return texts.UNPAIRED[objective].term if objective in texts.UNPAIRED else texts.PAIRED[objective]


def objectives_of(algorithm: str) -> tuple[str, ...]:
    """The members of the family, the one that has its name first; none of imitation."""
    families = {"sft": (), "dpo": (*texts.PAIRED, *texts.UNPAIRED), "grpo": tuple(texts.GROUPED)}
    return families[algorithm]


def choose_objective(algorithm: str, name: str | None) -> str | None:
    """The member that is meant; raises UsageError if there is none of that name."""
    known = objectives_of(algorithm)
    if not known:
        if name is not None:
            raise UsageError(f"--objective: {algorithm} has one objective, the likelihood of the texts")
        return None
    return known[0] if name is None else choose("objective", name, known)


NEEDS = {
    "sft": '{"prompt", "completion"}, {"text"} or {"messages"}',
    "pairs": '{"prompt", "chosen", "rejected"}',
    "labels": '{"prompt", "completion", "label"}',
    "grpo": '{"prompt"}, and what its reward needs',
}
"""By kind of data, what a line of the file must have."""


def kind_of(algorithm: str, objective: str | None) -> str:
    """What kind of records is learnt from, of `NEEDS`."""
    if algorithm != "dpo":
        return algorithm
    return "labels" if objective in texts.UNPAIRED else "pairs"


def about_texts(algorithm: str, objective: str | None) -> str:
    """What the help says of an algorithm on texts, and of the objective."""
    functions = filter(None, (term_of(algorithm, objective), way(algorithm, objective)))
    said = [_recipes.paragraphs_of(function)[0] for function in functions]
    others = objectives_of(algorithm)
    family = [f"--objective is one of {', '.join(others)}."] if others else []
    needs = f"Each line of the file has {NEEDS[kind_of(algorithm, objective)]}; texts are strings or chat messages."
    return "\n\n".join([*said, needs, *family]).replace("`", "")


def parameters_of(algorithm: str, objective: str | None) -> dict[str, _recipes.Parameter]:
    """The hyperparameters that the command line can set: those of the way to learn, and the objective's own.

    A length by which an objective divides is that of the answers, and no number of its own.
    """
    term = term_of(algorithm, objective)
    own = {} if term is None else _recipes.parameters_of(term)
    found = {**_recipes.parameters_of(way(algorithm, objective)), **own}
    return {name: parameter for name, parameter in found.items() if name != "length"}
