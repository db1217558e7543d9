"""The wheel, built and run outside the checkout."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import QUICK

import harness

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel; its dependencies come from this environment.

    Its Python is run with ``-E``: a PYTHONPATH would put the checkout before the wheel.
    """
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True, timeout=120)
    (wheel,) = folder.glob("initbench-*.whl")
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([*install, "--disable-pip-version-check"], check=True, capture_output=True, timeout=120)
    # ours come first on the path, then this environment's packages, in which the checkout is installed too
    own = Path(pytest.__file__).parent.parent
    (site / "dependencies.pth").write_text(f"{own}\n")
    return folder / "venv/bin"


def test_wheel_runs_the_command_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed / "python", "-E", "-m", "harness.run", "init=zero", *QUICK],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trials = harness.load(tmp_path / "outputs/results").trials
    assert trials["git_commit"].isna().all(), "an installed package is no checkout"
    assert trials["unmoved"].map(len).tolist() == [11]


def test_wheel_holds_configs_data_and_type_marker_and_no_tests(installed: Path) -> None:
    code = (
        "import harness, pathlib; root = pathlib.Path(harness.__file__).parent;"
        "print(root, (root / 'conf/init/zero.yaml').exists(), (root / 'mnist5k.parquet').exists(),"
        "(root / 'py.typed').exists(), (root.parent / 'tests').exists(), sep='|')"
    )
    done = subprocess.run([installed / "python", "-E", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    where, *present = done.stdout.strip().split("|")
    assert str(ROOT) not in where
    assert present == ["True", "True", "True", "False"]


def test_the_wheel_has_the_version_that_the_program_says(installed: Path) -> None:
    """The number stands in ``harness/__init__.py`` alone."""
    code = "import harness, importlib.metadata; print(harness.__version__, importlib.metadata.version('initbench'))"
    done = subprocess.run([installed / "python", "-E", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == [harness.__version__] * 2
