"""`polopt train ALGORITHM --data FILE`: from words to options, whose hyperparameters are those of the objective."""

import dataclasses

from polopt_jax.cli._cache import use_cache
from polopt_jax.cli._hyperparameters import given, options_with, shown
from polopt_jax.cli._reading import read_words, value_of
from polopt_jax.cli._text_family import ALGORITHMS, about_texts, choose_objective, objectives_of, parameters_of
from polopt_jax.cli._text_options import TrainAnswers, TrainTexts
from polopt_jax.cli._text_train import train_texts
from polopt_jax.cli._words import ELSEWHERE, UsageError, choose, flag


def learns_texts(algorithm: str | None, words: list[str]) -> bool:
    """Whether a command line is about texts: it names a file of them, or an algorithm that knows nothing else."""
    return (algorithm or "").lower() == "sft" or value_of("--data", words) is not None


def train_on_texts(algorithm: str | None, words: list[str], arguments: list[str]) -> int:
    name = choose("algorithm", algorithm or "", ALGORITHMS)
    objective = choose_objective(name, value_of("--objective", words))
    _check_text_flags(name, objective, words)
    known = parameters_of(name, objective)
    kind = TrainAnswers if name == "grpo" else TrainTexts
    wanted = options_with(kind, objective or name, known, {key: shown(entry.default) for key, entry in known.items()})
    options = read_words(wanted, f"train {name} --data FILE", words, about_texts(name, objective))
    if options is None:
        return 0
    use_cache(arguments)
    return train_texts(name, options.run, given(known, options.hyperparameters), arguments)


def _check_text_flags(algorithm: str, objective: str | None, words: list[str]) -> None:
    """Raises UsageError if a flag is another objective's, naming those that this one has."""
    own = {flag(name) for name in parameters_of(algorithm, objective)}
    shared = {flag(field.name) for field in dataclasses.fields(TrainAnswers if algorithm == "grpo" else TrainTexts)}
    others = {flag(name) for other in objectives_of(algorithm) for name in parameters_of(algorithm, other)}
    for word in words:
        used = word.split("=")[0].replace("_", "-")
        if used in others - own - shared:
            raise UsageError(f"{objective or algorithm} has no {used}; it has {', '.join(sorted(own))}")
        if ELSEWHERE.get(used) in own | shared and used not in own | shared:
            raise UsageError(f"unrecognized options: {used}; did you mean {ELSEWHERE[used]}?")
