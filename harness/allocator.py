"""The C library's allocator, told to keep the memory that training frees and takes again at each step.

By default glibc returns large blocks to the system as soon as they are freed, and asks for new ones at the next step,
which the system fills with zeros page by page. The constants are those of glibc's ``malloc.h``.
"""

import ctypes
import os
from typing import Any

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_KEPT, _GROWTH, _NEVER = 1 << 30, 64 << 20, -1

_keeps = False
"""Whether this process was told to keep memory; glibc has no way back to its defaults."""


def keep_memory() -> None:
    """Keep freed memory for the rest of this process, where glibc allocates; elsewhere do nothing.

    Only a process that exists for trials calls this: the command's own, and its workers. A program that calls
    :func:`harness.run_trial` keeps the allocator as it is.
    """
    global _keeps  # noqa: PLW0603 - a process has one allocator
    library = _glibc()
    if library is not None and not _keeps:
        # versions of glibc that allow no threshold above 32 MiB refuse the first setting, and then get none
        settings = ((_M_MMAP_THRESHOLD, _LARGEST_KEPT), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROWTH))
        _keeps = all(library.mallopt(*setting) == 1 for setting in settings)


def can_keep() -> bool:
    """Return whether glibc allocates here."""
    return _glibc() is not None


def keeps_memory() -> bool:
    """Return whether this process keeps freed memory."""
    return _keeps


def give_back() -> None:
    """Return the memory that is free now to the system, if it is kept, so that what follows has a peak of its own."""
    library = _glibc() if _keeps else None
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> Any:  # noqa: ANN401 - a C library has no type
    """Return glibc; None on another system, or if another allocator was put in front of it."""
    library = ctypes.CDLL(None)
    is_glibc = hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")
    return library if is_glibc and "malloc" not in os.environ.get("LD_PRELOAD", "") else None
