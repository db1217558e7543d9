"""``python -m harness.results``: see the package."""

import sys

from harness.results.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
