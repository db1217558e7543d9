"""``python -m harness.compare``: see the package."""

import sys
import traceback

from harness.compare.command import main
from harness.compare.judgement import ERROR

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Exception:  # noqa: BLE001 - Python would exit with 1, which here means a regression
        traceback.print_exc()
        sys.exit(ERROR)
