"""The commit and the changes of the running code: real repositories, a copy of the package, a process of its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import checkout, external

ROOT = Path(__file__).parent.parent
GIT = shutil.which("git")
ASK = "import json; from harness.checkout import git_state; print(json.dumps(git_state()))"
UNKNOWN = (None, None)
State = tuple[str | None, bool | None]

pytestmark = pytest.mark.skipif(GIT is None, reason="needs git")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, whose ``.gitconfig`` is the user's; nothing of git's in the environment."""
    for name in [name for name in os.environ if name.startswith("GIT_")] + ["PYTHONPATH", "XDG_CONFIG_HOME"]:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    git(path, "config", "--global", "user.name", "A")
    git(path, "config", "--global", "user.email", "a@example.org")
    git(path, "config", "--global", "protocol.file.allow", "always")
    return path


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", os.fspath(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with the modules that ask git, and an empty ``__init__``, which is quick."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "harness").mkdir()
    for name in ("checkout.py", "external.py"):
        shutil.copy(ROOT / "harness" / name, folder / "harness")
    (folder / "harness/__init__.py").write_text("")
    (folder / "harness/data.py").write_text("")
    (folder / ".gitignore").write_text("__pycache__/\n")
    return folder


def committed(folder: Path) -> str:
    """Make the folder a repository with one commit of all that is in it; the commit."""
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return head(folder)


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def ours(package: Path, tmp_path: Path) -> Path:
    """A checkout that holds the package, clean."""
    copied = shutil.copytree(package, tmp_path / "ours")
    committed(copied)
    return copied


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Path]:
    """A repository that is not ours, and stays as it is."""
    path = tmp_path / "other"
    path.mkdir()
    (path / "theirs").write_text("theirs")
    commit = committed(path)
    yield path
    assert head(path) == commit


def asked(folder: Path, **environment: str) -> State:
    """What the package in the folder says of itself."""
    return told_by([sys.executable, "-c", ASK], folder, environment)


def told_by(command: list[str], folder: Path, environment: dict[str, str]) -> State:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    commit, dirty = json.loads(done.stdout.splitlines()[-1])
    return commit, dirty


def program(folder: Path, name: str, text: str) -> Path:
    """A shell script of that name."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def first_on_path(tmp_path: Path, script: str) -> str:
    """A PATH on which a script stands in for git; ``$GIT`` in it is the real one."""
    program(tmp_path / "bin", "git", script.replace("$GIT", str(GIT)))
    return f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"


WHOLE = """
import json, time, torch
from harness import data, provenance
provenance.git_state()
start = time.process_time()
row = provenance.environment(torch.device("cpu"))
assert time.process_time() - start < 0.05, "all but git takes a twentieth of a second at most"
print(json.dumps([row["git_commit"], row["git_dirty"]]))
"""


def test_a_whole_package_names_its_commit_in_a_row_and_the_rest_costs_little(tmp_path: Path, other: Path) -> None:
    skipped = shutil.ignore_patterns("*.parquet", "__pycache__", "report", "compare", "analysis")
    whole = tmp_path / "whole"
    shutil.copytree(ROOT / "harness", whole / "harness", ignore=skipped)
    (whole / ".gitignore").write_text("__pycache__/\n")
    commit = committed(whole)
    assert told_by([sys.executable, "-c", WHOLE], whole, {"GIT_DIR": str(other / ".git")}) == (commit, False)


def test_a_clean_checkout_and_each_kind_of_change(ours: Path) -> None:
    assert asked(ours) == (head(ours), False)
    (ours / "new").write_text("")
    assert asked(ours) == (head(ours), True), "an untracked file"
    (ours / "new").unlink()
    (ours / "__pycache__").mkdir(exist_ok=True)
    (ours / "__pycache__/new").write_text("")
    assert asked(ours) == (head(ours), False), "an ignored file"
    (ours / "harness/data.py").write_text("# changed\n")
    git(ours, "add", ".")
    assert asked(ours) == (head(ours), True), "a staged change"


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"])
def test_variables_of_another_repository_are_not_followed(ours: Path, other: Path, name: str) -> None:
    values = {"GIT_WORK_TREE": other, "GIT_INDEX_FILE": other / ".git/index"}
    assert asked(ours, **{name: str(values.get(name, other / ".git"))}) == (head(ours), False)


def test_config_in_variables_is_not_followed(ours: Path, tmp_path: Path) -> None:
    """Such as one that ignores every file that is not tracked."""
    (tmp_path / "all").write_text("*\n")
    (tmp_path / "config").write_text(f"[core]\n\texcludesFile = {tmp_path / 'all'}\n")
    (ours / "new").write_text("")
    config = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.excludesFile", "GIT_CONFIG_VALUE_0": f"{tmp_path}/all"}
    assert asked(ours, **config) == (head(ours), True)
    assert asked(ours, GIT_CONFIG_GLOBAL=str(tmp_path / "config")) == (head(ours), True)


@pytest.mark.parametrize("how", ["hook", "rebase"])
def test_within_a_command_of_git_on_another_repository(ours: Path, other: Path, tmp_path: Path, how: str) -> None:
    """Git tells a hook, and what a rebase executes, which repository it works on; in a work tree by ``GIT_DIR``."""
    tree, said = tmp_path / "tree", tmp_path / "said"
    git(other, "worktree", "add", "-q", str(tree))
    script = program(tmp_path, "ask", f"cd '{ours}' && '{sys.executable}' -c '{ASK}' > '{said}' && env >> '{said}.env'")
    if how == "hook":
        shutil.copy(script, other / ".git/hooks/pre-commit")
        git(tree, "commit", "-q", "--allow-empty", "-m", "second")
    else:
        git(tree, "commit", "-q", "--allow-empty", "-m", "second")
        git(tree, "rebase", "-q", "--root", "--exec", str(script))
    assert "GIT_DIR=" in Path(f"{said}.env").read_text()
    assert tuple(json.loads(said.read_text())) == (head(ours), False)


@pytest.mark.parametrize("kind", ["no .git", "an empty .git", "a .git that leads nowhere", "the outer work tree"])
def test_a_copy_within_another_repository_has_no_commit(package: Path, other: Path, kind: str) -> None:
    copied = other / "vendor/ours"
    shutil.copytree(package, copied)
    if kind == "an empty .git":
        (copied / ".git").mkdir()
    elif kind == "a .git that leads nowhere":
        (copied / ".git").write_text("gitdir: /nowhere\n")
    elif kind == "the outer work tree":
        # with a repository of its own that says that its files are those outside
        committed(copied)
        git(copied, "config", "core.worktree", str(other))
    assert asked(copied) == UNKNOWN


def test_a_package_that_its_repository_does_not_track_has_no_commit(package: Path, other: Path) -> None:
    """As where it is installed into the top of a repository."""
    shutil.copytree(package, other, dirs_exist_ok=True)
    assert asked(other) == UNKNOWN
    git(other, "add", ".")
    assert asked(other) == (head(other), True)


def test_a_linked_work_tree_has_its_own_commit_and_a_copy_of_it_none(ours: Path, tmp_path: Path) -> None:
    tree, copied = tmp_path / "tree", tmp_path / "copied"
    git(ours, "worktree", "add", "-q", str(tree))
    git(tree, "commit", "-q", "--allow-empty", "-m", "second")
    assert head(tree) != head(ours)
    assert asked(tree) == (head(tree), False)
    shutil.copytree(tree, copied)
    git(tree, "commit", "-q", "--allow-empty", "-m", "third")
    assert asked(copied) == UNKNOWN


def test_a_submodule_has_its_own_commit_and_a_copy_of_it_none(ours: Path, other: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    git(tmp_path, "clone", "-q", str(other), str(outer))
    git(outer, "submodule", "add", "-q", str(ours), "ours")
    git(outer, "commit", "-q", "-m", "second")
    assert asked(outer / "ours") == (head(ours), False)
    shutil.copytree(outer / "ours", outer / "copied")
    assert asked(outer / "copied") == UNKNOWN


@pytest.mark.parametrize("hide", ["submodule.theirs.ignore", "diff.ignoreSubmodules"])
def test_changes_of_a_submodule_count_whatever_the_config_says(ours: Path, other: Path, hide: str) -> None:
    git(ours, "submodule", "add", "-q", "--name", "theirs", str(other), "theirs")
    git(ours, "commit", "-q", "-m", "second")
    git(ours, "config", hide, "all")
    assert asked(ours) == (head(ours), False)
    (ours / "theirs/theirs").write_text("changed")
    assert asked(ours) == (head(ours), True)


def test_untracked_files_count_whatever_the_config_says(ours: Path, home: Path) -> None:
    git(home, "config", "--global", "status.showUntrackedFiles", "no")
    (ours / "new").write_text("")
    assert asked(ours) == (head(ours), True)


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_files_that_git_may_not_look_at_leave_the_changes_unknown(ours: Path, flag: str) -> None:
    git(ours, "update-index", flag, "harness/data.py")
    (ours / "harness/data.py").write_text("# changed\n")
    assert asked(ours) == (head(ours), None)
    (ours / "new").write_text("")
    assert asked(ours) == (head(ours), True), "another change is seen"


def test_a_checkout_of_another_owner_has_no_commit(ours: Path, tmp_path: Path) -> None:
    """Git then refuses to work, unless ``safe.directory`` names the folder."""
    script = 'GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec $GIT "$@"'
    path = first_on_path(tmp_path, script)
    assert asked(ours, PATH=path) == UNKNOWN
    git(ours, "config", "--global", "safe.directory", str(ours))
    assert asked(ours, PATH=path) == (head(ours), False)


WRONG_HEAD = """case "$*" in
*rev-parse*) printf '%s\\n/\\nHEAD\\n' "$2" ;;
*) exec $GIT "$@" ;;
esac"""


@pytest.mark.parametrize("script", ["exit 1", "echo", "echo HEAD", WRONG_HEAD, "printf '\\377'", None])
def test_without_a_git_that_works_there_is_no_commit(ours: Path, tmp_path: Path, script: str | None) -> None:
    path = str(tmp_path / "empty") if script is None else first_on_path(tmp_path, script)
    assert asked(ours, PATH=path) == UNKNOWN


def test_before_the_first_commit_there_is_none(package: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(package, tmp_path / "ours")
    git(copied, "init", "-q")
    git(copied, "add", ".")
    assert asked(copied) == UNKNOWN
    # which "git rev-parse HEAD" repeats as the name of a file
    (copied / "HEAD").write_text("")
    assert asked(copied) == UNKNOWN


def test_asking_writes_nothing_and_starts_no_program_of_a_config(ours: Path, home: Path, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    monitor = program(tmp_path, "monitor", f"touch '{mark}'")
    git(home, "config", "--global", "core.fsmonitor", str(monitor))
    git(ours, "config", "core.fsmonitor", str(monitor))
    mark.unlink(missing_ok=True)
    hook = ours / ".git/hooks/post-index-change"
    shutil.copy(monitor, hook)
    # the index holds another time for it, and a status that may write puts it right
    os.utime(ours / "harness/data.py", (1, 1))
    before = {path: path.stat().st_mtime_ns for path in (ours / ".git").rglob("*")}
    time.sleep(0.01)
    assert asked(ours) == (git(ours, "-c", "core.fsmonitor=false", "rev-parse", "HEAD"), False)
    assert not mark.exists()
    assert {path: path.stat().st_mtime_ns for path in (ours / ".git").rglob("*")} == before


def test_a_path_may_be_a_link_and_of_any_bytes(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ours)
    assert asked(tmp_path / "link") == (head(ours), False)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/harness").symlink_to(ours / "harness")
    assert asked(tmp_path / "site") == (head(ours), False), "the package alone"
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xffd\n"))
    try:
        ours.rename(strange)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert asked(strange)[0] in (head(strange), None)


def test_a_commit_that_somebody_makes_meanwhile_leaves_the_changes_unknown(ours: Path) -> None:
    assert checkout._dirty(ours, head(ours), hidden=False) is False
    assert checkout._dirty(ours, "0" * 40, hidden=False) is None


def test_a_program_is_asked_in_english_without_input_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert external.output_of("sh", "-c", "cat; echo $LC_ALL") == "C"
    assert external.output_of("no such program") is None
    assert external.output_of("sh", "-c", "echo; exit 1") is None
    assert external.output_of("a\0b") is None
    monkeypatch.setattr(external, "_PATIENCE_S", 0.2)
    start = time.monotonic()
    assert external.output_of("sleep", "30") is None
    assert external.output_of("sh", "-c", "sleep 5 & echo") is None, "a child of it holds the pipe"
    assert time.monotonic() - start < 3
