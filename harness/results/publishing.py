"""Files and folders that appear under their name whole and flushed to the disk, or not at all."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from harness.errors import UsageError
from harness.results.locking import HeldError, UnlockableError, locked


def flush_folder(folder: Path) -> None:
    """Make the names in a folder last: without this, a power cut can undo a rename that has long returned."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems cannot flush a folder, and do so by themselves
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def publish_file(partial: Path, target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under the name ``partial``, flush it, rename it to ``target`` and flush the folder.

    Neither name may exist before: nothing is overwritten, and no link is followed.
    """
    try:
        with partial.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        partial.rename(target)
        flush_folder(target.parent)
    finally:
        # still there only if the disk is full or the write was interrupted
        partial.unlink(missing_ok=True)


@contextmanager
def published(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty hidden folder beside ``target``; when the block ends, it is flushed and renamed to ``target``.

    Readers see the whole folder or none. A lock beside it, held until the end, keeps a second process out and shows
    the next one that what lies beside the target was left over by a process that was killed: that is removed, and a
    target that was killed amid its replacement is put back.

    Args:
        target: the folder; unless it is replaced, it must not exist or be empty.
        replace: put the new folder in the place of one that exists. For an instant there is neither.

    Raises:
        UsageError: another process is writing the same folder, or the file system has no locks.
        OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(target.with_name(f".{target.name}.lock")):
            _clear(target)
            draft = _sibling(target, "draft")
            draft.mkdir()
            try:
                yield draft
                _flush(draft)
                _rename(draft, target, replace=replace)
            finally:
                remove(draft)
    except HeldError as error:
        raise UsageError(f"{target}: another process is writing this folder; wait until it has ended") from error
    except UnlockableError as error:
        raise UsageError(f"{target}: its parent folder cannot be locked ({error}); give another place") from error


def _sibling(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.{what}")


def _left_over(target: Path, what: str) -> list[Path]:
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.{what}")
    return sorted(path for path in target.parent.iterdir() if ours.fullmatch(path.name))


def _clear(target: Path) -> None:
    """Put back a target that was killed amid its replacement, and remove what killed processes left beside it."""
    for old in _left_over(target, "old"):
        if not target.exists() and not old.is_symlink():
            old.rename(target)
        else:
            remove(old)
    for draft in _left_over(target, "draft"):
        remove(draft)


def remove(path: Path) -> None:
    """Remove a folder with what is in it, or a link but not what it points to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _flush(folder: Path) -> None:
    """Flush every file and folder in a folder, and the folder last."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(Path(place) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        flush_folder(Path(place))


def _rename(draft: Path, target: Path, *, replace: bool) -> None:
    old = _sibling(target, "old")
    if replace and target.exists():
        target.rename(old)
    try:
        # succeeds also where the target is an empty folder
        draft.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    flush_folder(target.parent)
    remove(old)
