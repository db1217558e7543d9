"""What a command says while trials run and at its end, and the exit code that follows from it."""

import sys
from typing import TYPE_CHECKING, Any

from harness import output
from harness.trial_line import trial_line
from harness.wording import error_text, one_line

if TYPE_CHECKING:
    from harness.console import LiveTable
    from harness.results import Recovered
    from harness.sweep.workers import Glance

OK, SOME_FAILED, WRONG_COMMAND = 0, 1, 2
"""The exit codes."""

SAFE = "finished trials are safe, those in hand are recorded as killed"
"""What an interruption means for the trials of a command."""


class Audience:
    """Whoever reads the command's output.

    Attributes:
        table: the live table of a sweep, while it runs.
        broken: how many could not be recorded.
        is_interrupted: whether the command was told to stop.
        interruption: what that means for its trials.
    """

    def __init__(self) -> None:
        self.table: LiveTable | None = None
        self.broken = 0
        self.is_interrupted = False
        self.interruption = SAFE
        self._errors: list[str] = []

    def say(self, line: str) -> None:
        """Print a line on standard output, above the live table if there is one."""
        line = one_line(line)
        if self.table is None:
            print(line, flush=True)
        else:
            self.table.say(line)

    def note(self, line: str) -> None:
        """Say what is good to know."""
        self.say(f"note: {line}")

    def recovered(self, recovered: "Recovered") -> None:
        """Say what an earlier run had left in the results folder."""
        for trial_id in recovered.trial_ids:
            self.note(f"the trial {trial_id} of an earlier run was killed outright; its row says so now")
        for line in recovered.lines:
            self.note(line)

    def refuse(self, message: str) -> None:
        """Say what is wrong with the command, once and in one line."""
        message = one_line(" ".join(message.split()))
        if message not in self._errors:
            self._errors.append(message)
            print(f"error: {message}", file=sys.stderr)

    def break_down(self, title: str, error: BaseException) -> None:
        """Say that a trial could not be recorded."""
        self.lose(f"{title} could not be recorded: {type(error).__name__}: {error_text(error)}")

    def lose(self, line: str) -> None:
        """Say what was lost, be it a trial's row or a job."""
        self.broken += 1
        print(f"error: {one_line(line)}", file=sys.stderr)

    def look(self, running: "list[Glance]") -> None:
        """Show what runs just now."""
        if self.table is not None:
            self.table.look(running)

    def ended(self, title: str, row: dict[str, Any]) -> None:
        """Print the line of a trial whose row is safe."""
        line = one_line(trial_line(title, row))
        if self.table is None:
            self.say(line)
        else:
            self.table.ended(line, ok=row["status"] == "ok")

    def exit_code(self, *, failed: bool) -> int:
        """Say what went wrong with the output itself, and return the exit code of it all."""
        is_lost = output.lost("; the results are complete")
        if self._errors:
            return WRONG_COMMAND
        return SOME_FAILED if failed or is_lost or self.broken or self.is_interrupted else OK
