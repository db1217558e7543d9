"""Ask another program a question: its answer, or nothing, and never for long."""

import os
import subprocess
from collections.abc import Mapping

_PATIENCE_S = 10


def output_of(*command: str, environment: Mapping[str, str] | None = None) -> str | None:
    """Return what a command prints, without its last line break.

    Args:
        command: the program and its arguments. It gets no input, so that it cannot wait for any.
        environment: its environment variables; None: those of this process.

    Returns:
        None if the program is not there, fails, or takes longer than ten seconds.
    """
    own = dict(os.environ if environment is None else environment)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            check=True,
            # what is parsed must not be translated
            env=own | {"LC_ALL": "C"},
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    # file names may be in any encoding
    return os.fsdecode(done.stdout).removesuffix("\n")
