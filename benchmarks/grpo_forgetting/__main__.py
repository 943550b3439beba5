"""The figures of the puzzle, into `benchmarks/results/outcomes/`, and its tables into `docs/findings-sampled.md`.

python -m benchmarks.grpo_forgetting                (three minutes on a core)
python -m benchmarks.grpo_forgetting --tables       (the tables alone, from what is kept)
"""

import argparse
import platform
from datetime import date
from importlib.metadata import version

import jax

from benchmarks import outcomes_sampled
from benchmarks.grpo_forgetting import figures
from benchmarks.grpo_forgetting.findings import KEPT
from benchmarks.record import lines, rounded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="reckon nothing")
    if not parser.parse_args().tables:
        with jax.enable_x64(True):
            reckoned = {"exact": figures.exact(), "rests": figures.rests()}
        alone, warned = figures.one_by_one()
        record = {
            "benchmark": "grpo_forgetting",
            "command": "python -m benchmarks.grpo_forgetting",
            "date": date.today().isoformat(),
            "python": platform.python_version(),
            "versions": {package: version(package) for package in ("jax", "jaxlib", "optax", "numpy")},
            "figures": {**reckoned, "together": figures.in_the_notebook(), "alone": alone, "warnings": warned},
        }
        KEPT.write_text(lines(rounded(record)) + "\n")
    outcomes_sampled.rewrite()


if __name__ == "__main__":
    main()
