"""The commit of the running code and whether it was changed: the truth, or None where git cannot tell.

Git looks for a repository in its environment and in every folder above, and does what each config file on its way says.
So it is asked about one folder, the one that holds this package; its answer is taken only if that folder is the top of
the work tree and the running file is tracked there.
"""

import functools
import os
import re
from pathlib import Path

from harness.external import output_of

_FILE = Path(__file__).resolve()
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SETTINGS = {
    # a program that the user's or the repository's config would start
    "core.fsmonitor": "false",
    # a search that a yes or no does not need
    "status.renames": "false",
}
_READ_ONLY = {
    # the index stays as it is: the checkout may be read-only, or in use by another git
    "GIT_OPTIONAL_LOCKS": "0",
    # a partial clone must not go to the network, nor ask for a password
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_TERMINAL_PROMPT": "0",
}


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this code runs from, and whether it is changed.

    Returns:
        None for the commit of an installed package, of a copy without a ``.git`` of its own, or where git is missing or
        refuses; None for the changes if git was told not to look at some files, or takes too long.
    """
    root = _FILE.parent.parent
    if not (root / ".git").exists():
        return None, None
    commit = _commit(root)
    # each file after a letter that says how git looks at it
    files = None if commit is None else _git(root, "ls-files", "-v", "-z")
    if commit is None or files is None:
        return None, None
    tracked = {path: tag for tag, _, path in (entry.partition(" ") for entry in files.split("\0"))}
    if _FILE.relative_to(root).as_posix() not in tracked:
        return None, None
    # any letter but H: git takes the file for unchanged whatever it holds
    hidden = {tag for path, tag in tracked.items() if path} - {"H"}
    return commit, _dirty(root, commit, hidden=bool(hidden))


def _git(root: Path, *arguments: str) -> str | None:
    # in a hook and under "git rebase --exec" such variables name the repository that git works on
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    return output_of("git", "-C", str(root), *settings, *arguments, environment=inherited | _READ_ONLY)


def _commit(root: Path) -> str | None:
    """HEAD of the repository whose work tree has its top in this folder."""
    answer = _git(root, "rev-parse", "--show-toplevel", "--absolute-git-dir", "--verify", "HEAD^{commit}")
    lines = (answer or "").split("\n")
    if len(lines) != 3 or not _COMMIT.fullmatch(lines[2]):
        return None
    try:
        is_ours = root.samefile(lines[0]) and not _is_another_tree(root / ".git", Path(lines[1]))
    except OSError:
        return None
    return lines[2] if is_ours else None


def _is_another_tree(link: Path, git_dir: Path) -> bool:
    """Return whether a linked work tree was copied: the copy's ``.git`` file leads to the HEAD of the original."""
    back = git_dir / "gitdir"
    return link.is_file() and back.is_file() and not link.samefile(git_dir / os.fsdecode(back.read_bytes()).strip())


def _dirty(root: Path, commit: str, *, hidden: bool) -> bool | None:
    # said in full, because the user's config may hide untracked files and changes of submodules
    every = ("--untracked-files=normal", "--ignore-submodules=none")
    status = _git(root, "status", "--porcelain=v2", "--branch", "--no-ahead-behind", "-z", *every)
    entries = [] if status is None else status.removesuffix("\0").split("\0")
    if f"# branch.oid {commit}" not in entries:
        # git failed, or somebody made a commit since it was asked for HEAD
        return None
    changed = any(not entry.startswith("# ") for entry in entries)
    return True if changed else (None if hidden else False)
