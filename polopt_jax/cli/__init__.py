"""The command `polopt`: train one algorithm, compare several, list the environments.

Nothing here is needed to use the library. What is slow to import (Brax, orbax, matplotlib) is imported when it is
needed, so that wrong input is answered at once.
"""

from polopt_jax.cli._main import main

__all__ = ["main"]
