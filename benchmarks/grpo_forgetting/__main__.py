"""The figures of the puzzle, into `benchmarks/results/outcomes/`, and its tables into `docs/findings-sampled.md`.

python -m benchmarks.grpo_forgetting                (three minutes on a core)
python -m benchmarks.grpo_forgetting --tables       (the tables alone, from what is kept)
"""

import argparse

import jax

from benchmarks import outcomes_sampled
from benchmarks.grpo_forgetting import figures
from benchmarks.grpo_forgetting.findings import KEPT
from benchmarks.record import reckoned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="reckon nothing")
    if not parser.parse_args().tables:
        with jax.enable_x64(True):
            exactly = {"exact": figures.exact(), "rests": figures.rests()}
        alone, warned = figures.one_by_one()
        found = {**exactly, "together": figures.in_the_notebook(), "alone": alone, "warnings": warned}
        KEPT.write_text(reckoned("grpo_forgetting", found))
    outcomes_sampled.rewrite()


if __name__ == "__main__":
    main()
