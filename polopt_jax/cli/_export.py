"""`polopt export`: what a run has learnt, as a file that needs nothing of this library."""

import json

from polopt_jax.cli._options import Export
from polopt_jax.cli._words import check_new
from polopt_jax.export import export_params
from polopt_jax.loading import load


def export(options: Export) -> int:
    """Writes the parameters of a run's policy, and what its observations are normalised by, and says where."""
    check_new("FILE", options.file)
    policy = load(options.run, seed=options.seed)
    parts = {"params": policy.params, "normalizer": policy.normalizer}
    config = json.dumps(dict(policy.config))
    export_params({name: x for name, x in parts.items() if x is not None}, options.file, metadata={"config": config})
    print(f"Parameters: {options.file}")
    return 0
