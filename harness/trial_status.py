"""How a trial ended: its status, and the error that ended it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness.errors import DivergedError, TimeBudgetError, let_go
from harness.time_limit import time_limit
from harness.wording import error_text


@contextmanager
def status_of(row: dict[str, Any], timeout_s: float | None) -> Iterator[None]:
    """End the block in time, and record how it ended; only Ctrl-C and termination go on.

    Args:
        row: the trial's row of ``trials``, which gets the columns of its end.
        timeout_s: ``sweep.trial_timeout_s``.
    """
    try:
        with time_limit(timeout_s, "sweep.trial_timeout_s"):
            yield
        row["status"] = "ok"
    except KeyboardInterrupt as error:
        record_failure(row, error)
        raise
    except BaseException as error:  # noqa: BLE001 - a failed trial is a row, whatever failed it
        record_failure(row, error)


def record_failure(row: dict[str, Any], error: BaseException) -> None:
    """Record how a trial ended that did not end as planned.

    Args:
        row: the trial's row of ``trials``, which gets the columns of its end.
        error: what ended it; afterwards it no longer holds what was computed when it was raised.
    """
    let_go(error)
    if isinstance(error, KeyboardInterrupt):
        _set_error(row, "killed", InterruptedError("interrupted (Ctrl-C or a termination signal)"))
    elif isinstance(error, DivergedError):
        _set_error(row, "diverged", error)
        row["diverged_step"] = error.step
        # it goes on to the end of its window, so how far depends on how it was timed
        row["final_weights_sha256"] = None
    elif isinstance(error, TimeBudgetError):
        _set_error(row, "timeout", error)
    else:
        _set_error(row, "oom" if is_out_of_memory(error) else "error", error)


def _set_error(row: dict[str, Any], status: str, error: BaseException) -> None:
    row.update(status=status, error_type=type(error).__name__, error_message=error_text(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; torch has an error for CUDA, and its CPU allocator raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in error_text(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )
