"""`python -m pvdm_jax.cli` is `pvdm`."""

import sys

from pvdm_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
