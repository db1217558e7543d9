"""Another distribution's package ``kernels``, such as PyPI's, harms no trial and is not harmed itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness import own_kernels
from harness.errors import UsageError

ROOT = Path(__file__).parent.parent
BROKEN = "raise ModuleNotFoundError(\"No module named 'huggingface_hub'\")\n"
"""What importing the other package does where what it needs is not installed."""
TINY = (
    "init=glorot",
    "model=deep",
    "model.depth=1",
    "model.width=2",
    "model.stride=4",
    "device=cpu",
    "device.threads=1",
)
TINY += ("train.steps=1", "train.batch_size=1", "train.eval_every=1", "train.warmup_steps=0")

needs_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton is there for Linux only")


def write_foreign(folder: Path, content: str) -> Path:
    """Install the other distribution's package into a folder, over what is there."""
    (folder / "kernels").mkdir(parents=True, exist_ok=True)
    (folder / "kernels/__init__.py").write_text(content)
    information = folder / "kernels-0.9.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.9\n")
    (information / "RECORD").write_text("kernels/__init__.py,,\nkernels-0.9.dist-info/METADATA,,\n")
    return folder


def python(*arguments: str, path: list[Path], cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Python with these folders first on its path, whatever is installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), **variables}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def overwritten(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A path with a copy of our packages, of which the other distribution has replaced a file."""
    site = tmp_path_factory.mktemp("site")
    for name in ("conf", "harness", "kernels"):
        shutil.copytree(ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    return [write_foreign(site, BROKEN)]


@needs_triton
def test_both_kernels_train_where_another_package_comes_first(tmp_path: Path) -> None:
    path = [write_foreign(tmp_path / "site", BROKEN), ROOT]
    done = python(
        "-m", "harness.run", "-m", "kernel=torch,triton", *TINY, path=path, cwd=tmp_path, TRITON_INTERPRET="1"
    )
    assert done.returncode == 0, done.stderr
    trials = harness.load(tmp_path / "outputs/results").trials.set_index("kernel")
    assert trials["status"].to_dict() == {"torch": "ok", "triton": "ok"}
    # the convolution itself was run, and rounds otherwise than torch's in float64
    assert 0 < trials["kernel_error"]["triton"] < 1e-5


def test_torchs_kernel_trains_where_our_package_is_overwritten(overwritten: list[Path], tmp_path: Path) -> None:
    done = python("-m", "harness.run", *TINY, path=overwritten, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert harness.load(tmp_path / "outputs/results").trials["status"].tolist() == ["ok"]


def test_our_kernel_is_refused_there_by_the_name_of_the_owner(overwritten: list[Path], tmp_path: Path) -> None:
    done = python("-m", "harness.run", "kernel=triton", *TINY, path=overwritten, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line == (
        f"error: kernel=triton: the package 'kernels' in {overwritten[0]} belongs to the distribution kernels 0.9; "
        "uninstall it and reinstall initbench, or use kernel=torch"
    )


def test_a_package_that_nobody_owns_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The other distribution was uninstalled, and took the file that it had overwritten with it."""
    monkeypatch.setattr(own_kernels, "_INIT", tmp_path / "kernels/__init__.py")
    with pytest.raises(UsageError, match=r"kernels' in .* is not that of initbench; reinstall initbench, or use"):
        own_kernels.require("triton", "use kernel=torch")


PROGRAM = """
import inspect, pickle, sys
import kernels, torch
assert kernels.foreign
from harness import own_kernels
from harness.backends import KERNELS

x, weight = torch.randn(1, 3, 5, 5), torch.randn(2, 3, 3, 3, requires_grad=True)
values = []
for name in ("torch", "triton"):
    y = KERNELS[name].build("ieee").conv2d(x, weight)
    values.append((y, *torch.autograd.grad(y.square().sum(), weight)))
torch.testing.assert_close(*values)
assert sys.modules["kernels"] is kernels and kernels.foreign
assert not [name for name in sys.modules if name.startswith("kernels.")]
error = own_kernels.module("geometry").ConvolutionError
assert pickle.loads(pickle.dumps(error)) is error
assert "tl.dot" in inspect.getsource(own_kernels.module("triton_kernels"))
"""


@needs_triton
def test_a_program_keeps_the_other_package_that_it_imported(tmp_path: Path) -> None:
    """Both are of use at once: theirs under its name, ours through the harness."""
    path = [write_foreign(tmp_path / "site", "foreign = True\n"), ROOT]
    done = python("-c", PROGRAM, path=path, cwd=tmp_path, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr


BOTH_NAMES = """
import sys, types
import kernels, torch

x, weight = torch.randn(1, 1, 3, 5, 5, requires_grad=True), torch.randn(2, 3, 3, 3)
ours = kernels.conv2d
sys.modules["kernels"] = types.ModuleType("kernels")
from harness import own_kernels
copy = own_kernels.module("functional").conv2d
assert copy is not ours
for conv2d, error in ((ours, kernels.ConvolutionError), (copy, own_kernels.module("geometry").ConvolutionError)):
    # under vmap torch calls the operator that is registered
    of_one = torch.vmap(lambda image: conv2d(image, weight))
    torch.testing.assert_close(of_one(x), torch.nn.functional.conv2d(x[0], weight)[None])
    try:
        of_one(x.double())
    except RuntimeError as caught:
        assert type(caught) is error, type(caught).__module__
    else:
        raise AssertionError("float64 was not refused")
"""


@needs_triton
def test_ours_under_two_names_has_its_operators_twice(tmp_path: Path) -> None:
    """Torch has one operator of a name; a second registration would replace the first."""
    done = python("-W", "error", "-c", BOTH_NAMES, path=[ROOT], cwd=tmp_path, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr


def test_where_import_kernels_gives_ours_there_is_one_copy() -> None:
    from kernels import geometry

    assert own_kernels.module("geometry") is geometry
