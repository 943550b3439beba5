"""What `import polopt_jax` costs over `import jax`, each in a fresh process, taken in turns.

python -m benchmarks.imports [--repeats 7]
"""

import argparse
import statistics
import subprocess
import sys

from benchmarks.record import save

HEAVY = ("brax", "mujoco", "flax", "orbax", "matplotlib")


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def timed(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(fresh(code).splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    pairs = [(timed("jax"), timed("jax, optax"), timed("polopt_jax")) for _ in range(repeats)]
    loaded = fresh(f"import sys, polopt_jax; print([m for m in {HEAVY} if m in sys.modules])")
    figures = {
        "heavy_modules_loaded": loaded,
        "polopt_jax_seconds": round(statistics.median(p for _, _, p in pairs), 3),
        "jax_seconds": round(statistics.median(j for j, _, _ in pairs), 3),
        "over_jax_seconds": round(statistics.median(p - j for j, _, p in pairs), 3),
        "over_jax_and_optax_seconds": round(statistics.median(p - o for _, o, p in pairs), 3),
    }
    save("imports", figures)


if __name__ == "__main__":
    main()
