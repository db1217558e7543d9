"""Standard output that may break: a reader that left (``| head``) or a full disk costs no trial and no traceback."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast


class ForgivingStream(io.TextIOBase):
    """A text stream that goes quiet at its first error instead of raising it; all else is the stream's own.

    Attributes:
        failure: the error, unless it is only that the reader has left.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or do as if."""
        try:
            return self._stream.write(self._writable(text))
        except (OSError, ValueError) as error:
            self._go_quiet(error)
            return len(text)

    def _writable(self, text: str) -> str:
        """The text with what the stream's encoding lacks written as escapes."""
        encoding = self._stream.encoding or "utf-8"
        try:
            text.encode(encoding, self._stream.errors or "strict")
        except UnicodeEncodeError:
            return text.encode(encoding, "backslashreplace").decode(encoding)
        return text

    def flush(self) -> None:
        """Flush, or do as if."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._go_quiet(error)

    def _go_quiet(self, error: OSError | ValueError) -> None:
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            self.failure = self.failure or error
        # Python flushes once more when it ends, and would then fail as well
        with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def fileno(self) -> int:
        """The stream's own."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether a person watches."""
        return self._stream.isatty()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - buffer, reconfigure and the like
        return getattr(self._stream, name)

    def writable(self) -> bool:
        """It always is, that is its point."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's own."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The stream's own."""
        return self._stream.errors


def forgive() -> None:
    """Let standard output and standard error of this process go quiet at their first error."""
    for name in ("stdout", "stderr"):
        # Python has none where the descriptor was closed
        stream = getattr(sys, name) or Path(os.devnull).open("w")  # noqa: SIM115 - it is open to the end
        if not isinstance(stream, ForgivingStream):
            setattr(sys, name, cast("TextIO", ForgivingStream(stream)))


@contextmanager
def forgiving() -> Iterator[None]:
    """Let standard output and standard error go quiet at their first error while the block runs, flushes included."""
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w") as nowhere:
        # Python has none where the descriptor was closed
        sys.stdout, sys.stderr = (stream or nowhere for stream in before)
        forgive()
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            sys.stdout, sys.stderr = before


def lost(but: str = "") -> bool:
    """Say so if some of what was printed could not be written, and return whether it was so.

    Args:
        but: what to add to the line, such as what is not lost.
    """
    sys.stdout.flush()
    if error := failure():
        print(f"error: the output is not complete ({error.strerror}){but}", file=sys.stderr)
    return error is not None


def failure() -> OSError | None:
    """The error that cost output, if there was one; a reader that left is none."""
    return sys.stdout.failure if isinstance(sys.stdout, ForgivingStream) else None
