"""``python -m harness.compare``: see the package."""

import sys
import traceback

from harness.arguments import INTERRUPTED, WRONG_COMMAND

if __name__ == "__main__":
    try:
        from harness.compare.command import main

        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        # importing takes a second, in which nothing has begun
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception:  # noqa: BLE001 - Python would exit with 1, which here means a regression
        traceback.print_exc()
        sys.exit(WRONG_COMMAND)
