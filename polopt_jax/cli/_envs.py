"""`polopt envs`."""

import sys

from polopt_jax.cli._names import ABOUT, algorithms, backends


def envs() -> int:
    """Prints the environments as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, style in (("environment", "bold"), ("obs", ""), ("action", ""), ("backends", ""), ("rewarded", "")):
        table.add_column(name, style=style, no_wrap=name in ("environment", "obs", "action"))
    for name, about in ABOUT.items():
        known = backends(name)
        names = "all four" if len(known) == 4 else ", ".join(known) or "none"
        table.add_row(name, about.observation, about.action, names, about.rewarded)
    console.print(table)
    four = ", ".join(backends("ant"))
    console.print(
        f"\nThe four backends are {four}; spring is the default. A box n is n numbers in [-1, 1].", style="dim"
    )
    token_only = [a for a in algorithms("skip_the_test") if a not in algorithms("ant")]
    console.print(
        f"{', '.join(token_only)} learn skip_the_test only; the other algorithms learn everything.", style="dim"
    )
    return 0
