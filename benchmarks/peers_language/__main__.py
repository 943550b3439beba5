"""Measures every row and writes the table of docs/peers.md."""

import platform
from importlib.metadata import version
from pathlib import Path

import jax

from benchmarks.peers_language import rows
from benchmarks.peers_language.agreement import SEEDS, Row, distance

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"
PACKAGES = ("jax", "numpy", "torch", "trl", "transformers")


def told(row: Row) -> str:
    """The row's cells without its figures, which are no machine's affair."""
    return f"| `{row.called}` | {row.peer} | {row.differs} |"


def line(row: Row) -> str:
    found = [distance(row, seed) for seed in SEEDS]
    value = max(one.value for one in found)
    gradient = "" if found[0].gradient is None else f"{max(one.gradient or 0.0 for one in found):.0e}"
    return f"{told(row)} {value:.0e} | {gradient} |"


def main() -> None:
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])
    head = ["| ours | theirs | what differs, and why | value | gradient |", "|---|---|---|---|---|"]
    with jax.enable_x64(True):
        table = [*head, *map(line, rows.ALL)]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page = f"{before}{BEGIN}\n\n{versions}.\n\n" + "\n".join(table) + f"\n\n{END}{after}"
    PAGE.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
