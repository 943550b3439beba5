"""`--config FILE` and `--resume`: the options that stand in a file, as the words that would say them."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from polopt_jax import runs
from polopt_jax.cli._envs import has_real_actions
from polopt_jax.cli._options import Train
from polopt_jax.cli._words import UsageError, flag

DERIVED = frozenset({"algorithm", "hyperparameters", "chunk_updates", "updates", "versions", "world", "data_sha256"})
"""What a run's config.json holds that no flag says."""

SWITCHES = frozenset(field.name for field in fields(Train) if field.default is False)
"""Options that take no value, so that a file says true or false."""


def read_options(path: Path) -> tuple[str | None, list[str]]:
    """The algorithm that a file names, if it does, and the words of a command line that say the rest.

    A file is a JSON object of options by their names, with hyphens or underscores, among them or in `hyperparameters`
    those of the algorithm: the config.json of a run is one. What is null is not said; of a switch, true is. Raises
    UsageError if it cannot be read, and RunError if it is no such object.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    return options_of(runs.read_json(path), path)


def options_of(config: Mapping[str, Any], path: Path) -> tuple[str | None, list[str]]:
    """The same of what the file at `path` holds."""
    if "runs" in config:
        raise UsageError(f"{path} is that of a comparison, of several runs; name that of one")
    algorithm, own = config.get("algorithm"), config.get("hyperparameters", {})
    if not (isinstance(algorithm, str | None) and isinstance(own, Mapping)):
        raise runs.RunError(f"{path} is damaged: its algorithm must be a name, and its hyperparameters an object")
    derived = DERIVED if config.get("world") is None else DERIVED | {"rollout_steps"}  # which a token world decides
    said = {**{name: value for name, value in config.items() if name not in derived}, **own}
    flags = [flag(name) for name in said]
    if twice := sorted({name for name in flags if flags.count(name) > 1}):
        raise UsageError(f"{path} says {twice[0]} twice, with a hyphen and with an underscore")
    if (
        "versions" in config and config.get("hidden") and "initial_log_std" not in config
    ):  # of before that was an option
        said["initial_log_std"] = 0.0 if has_real_actions(str(config.get("env"))) else None
    return algorithm, [word for name, value in said.items() for word in _words(name, value)]


def _words(name: str, value: Any) -> list[str]:
    if value is None or value == []:
        return []
    if name in SWITCHES and isinstance(value, bool):
        return [flag(name)] * value
    values = value if isinstance(value, list) else [value]
    return [flag(name), ",".join(map(str, values))]


def compared(path: Path) -> list[Mapping[str, Any]]:
    """The configs of a comparison's runs; RunError if the file is not that of a comparison."""
    if not path.is_file():
        raise runs.RunError(f"there is no {path}, so there is no comparison to go on with")
    configs = runs.read_json(path).get("runs")
    if not (isinstance(configs, list) and configs and all(isinstance(config, Mapping) for config in configs)):
        raise runs.RunError(f"{path} is not that of a comparison: it has no list of runs")
    return configs
