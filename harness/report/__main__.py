"""``python -m harness.report``: see the package."""

import sys

from harness.arguments import INTERRUPTED

if __name__ == "__main__":
    try:
        from harness.report.command import main
    except KeyboardInterrupt:
        # importing takes a second, in which nothing has begun
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(main(sys.argv[1:]))
