"""Launchers made to wait for every job: a job that died is an answer among others, and not the end of the waiting.

The launchers of submitit and Ray raise the error of the first job that died, while other jobs still run. What they call
to wait for a job is replaced meanwhile by something that returns the error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.sweep.engines import Engine


@dataclass(frozen=True)
class DeadJob:
    """A job that gave no answer, and why, in one line."""

    message: str


class _PatientJob:
    """A job of submitit that returns its death."""

    def __init__(self, job: Any) -> None:  # noqa: ANN401 - submitit is an extra
        self._job = job

    def results(self) -> list[Any]:
        """Wait for the job and return its answer or its death."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        job = self._job
        try:
            return list(job.results())
        except UncompletedJobError:
            what = f"it left no answer (submitit's job {job.job_id}, state {job.state})"
        except FailedJobError as error:
            what = last_line(str(error).rpartition("-" * 22)[0])
        log = job.paths.stderr if job.paths.stderr.exists() else job.paths.stdout
        return [DeadJob(f"{what}; its log: {log}")]


@contextmanager
def waiting_for_all(engine: Engine) -> Iterator[list[Any]]:
    """Let a launcher wait for every job while the block runs.

    Yields:
        a list, into which submitit's jobs come when they have been submitted.
    """
    submitted: list[Any] = []
    if engine.has_logs:
        with _replaced_executor(submitted):
            yield submitted
    elif engine.name == "ray":
        with _replaced_get():
            yield submitted
    else:
        yield submitted


@contextmanager
def _replaced_executor(submitted: list[Any]) -> Iterator[None]:
    import submitit

    original = submitit.AutoExecutor

    class PatientExecutor(original):  # type: ignore[misc, valid-type]
        """Hands out jobs that return their death."""

        def map_array(self, *arguments: Any) -> Any:  # noqa: ANN401 - as in submitit
            submitted.extend(super().map_array(*arguments))
            return [_PatientJob(job) for job in submitted]

    submitit.AutoExecutor = PatientExecutor  # type: ignore[misc]
    try:
        yield
    finally:
        submitit.AutoExecutor = original  # type: ignore[misc]


@contextmanager
def _replaced_get() -> Iterator[None]:
    import ray

    original = ray.get

    def get(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as in Ray
        try:
            return original(*arguments, **options)
        except ray.exceptions.RayError as error:
            return DeadJob(first_line(error))

    ray.get = get
    try:
        yield
    finally:
        ray.get = original
        # ends what still runs, if this machine is all there is
        ray.shutdown()


def first_line(error: BaseException) -> str:
    """Return an error in one line: its kind, and what it says first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def last_line(trace: str) -> str:
    """Return what a traceback ends with."""
    return next((line.strip() for line in reversed(trace.splitlines()) if line.strip(" -")), "an unknown error")
