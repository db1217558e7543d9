"""Locks that tell a living process from one that was killed: the system lets go of a lock when its process ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class HeldError(Exception):
    """Another process holds the lock, so it lives."""


class UnlockableError(Exception):
    """The lock cannot be taken at all; the message says why."""


def take(path: Path, *, wait_s: float = 0.0) -> FileLock:
    """Take the lock whose file is ``path``; the file is made if it is missing.

    Args:
        path: the file. A link is replaced, because some releases of filelock empty the file that a link points to.
        wait_s: how long to wait for another process to let go.

    Raises:
        HeldError: another process holds the lock.
        UnlockableError: the file cannot be made, or its file system has no locks.
    """
    while True:
        lock = FileLock(path, timeout=wait_s)
        try:
            if path.is_symlink():
                path.unlink()
            lock.acquire()
        except Timeout as error:
            raise HeldError(str(path)) from error
        except NotImplementedError as error:
            raise UnlockableError("its file system cannot lock files") from error
        except OSError as error:
            raise UnlockableError(error.strerror or str(error)) from error
        if path.exists():
            return lock
        # its last holder removed the file meanwhile, so this lock would keep nobody out
        lock.release()


def let_go(path: Path, lock: FileLock) -> None:
    """Remove the file of a lock, then release the lock; in the other order another process could lose its own."""
    path.unlink(missing_ok=True)
    lock.release()


@contextmanager
def locked(path: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock while the block runs; arguments and errors as of :func:`take`."""
    lock = take(path, wait_s=wait_s)
    try:
        yield
    finally:
        let_go(path, lock)


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock; where that cannot be told, say yes. Nothing is made or changed."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, NotImplementedError, OSError):
        return True
