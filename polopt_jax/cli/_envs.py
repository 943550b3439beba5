"""`polopt envs`."""

import sys

from polopt_jax.cli._names import ABOUT, TOKEN_ENV, algorithms, backends


def envs() -> int:
    """Prints the environments as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("environment", "obs", "action", "backends", "rewarded"):
        table.add_column(name, no_wrap=name != "rewarded", style="cyan" if name == "environment" else "")
    for name, about in ABOUT.items():
        known = backends(name)
        names = "all four" if len(known) == 4 else ", ".join(known) or "none"
        table.add_row(name, about.observation, about.action, names, about.rewarded)
    console.print(table)
    token_only = [name for name in algorithms(TOKEN_ENV) if name not in algorithms("ant")]
    console.print(
        f"\nThe four backends are {', '.join(backends('ant'))}; spring is the default. A box n is n numbers in "
        f"[-1, 1].\n{' and '.join(token_only)} learn {TOKEN_ENV} only; the other algorithms learn everything.",
        style="dim",
    )
    return 0
