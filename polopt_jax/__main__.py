"""`python -m polopt_jax` is the command `polopt`."""

import sys

from polopt_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
