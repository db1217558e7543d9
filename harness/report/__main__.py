"""``python -m harness.report``: see the package."""

import sys

from harness.report.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
