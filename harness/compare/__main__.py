"""``python -m harness.compare``: see the package."""

import sys

from harness.compare.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
