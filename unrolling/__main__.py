"""``python -m unrolling`` is the command line."""

import sys

from unrolling.cli import main

if __name__ == "__main__":
    sys.exit(main())
