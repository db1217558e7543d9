"""What a trial's row records of packages, GPU and system: the truth or nothing, and never an error."""

import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from conftest import Configure

import harness
from harness import provenance, results
from harness.errors import TimeBudgetError
from harness.provenance import environment, package_versions

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    """What is asked once a process is asked once a test."""
    for cached in (package_versions, provenance.gpu_driver):
        cached.cache_clear()


def versions() -> dict[str, str]:
    return dict(package_versions())


def test_versions_are_those_of_the_modules_that_run() -> None:
    """Torch's says which build it is; so two builds of one release are told apart."""
    assert versions()["torch"] == torch.__version__
    assert type(versions()["torch"]) is str
    assert versions()["initbench"] == harness.__version__


def metadata(folder: Path, text: str) -> None:
    """The metadata of a copy of NumPy."""
    path = folder / "numpy-0.1.dist-info"
    path.mkdir()
    (path / "METADATA").write_text(text)


@pytest.mark.parametrize("text", ["Name: numpy\nVersion: 0.1\n", "Name: numpy\n", "", "\0"])
def test_metadata_of_another_copy_is_not_that_of_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    metadata(tmp_path, text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert versions()["numpy"] == sys.modules["numpy"].__version__


def test_a_package_that_is_not_imported_has_the_version_of_its_metadata_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = importlib.metadata.version("numpy")
    monkeypatch.delitem(sys.modules, "numpy")
    assert versions()["numpy"] == listed
    metadata(tmp_path, "Name: numpy\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    package_versions.cache_clear()
    assert "numpy" not in versions()


def test_a_build_is_no_other_version_and_depends_on_no_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a sweep's workers and what its command says of them are alike."""
    listed = importlib.metadata.version("torchvision").partition("+")[0]
    module = ModuleType("torchvision")
    module.__version__ = f"{listed}+cu999"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", module)
    imported = versions()
    package_versions.cache_clear()
    monkeypatch.delitem(sys.modules, "torchvision")
    assert versions() == imported


def test_torch_needs_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it was built from source."""

    def missing(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert versions()["torch"] == torch.__version__


def test_a_build_for_amd_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hip" not in versions()
    package_versions.cache_clear()
    monkeypatch.setattr(torch.version, "hip", "6.4.43482")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert (versions()["hip"], versions()["cuda"]) == ("6.4.43482", "none")


def nvml(answer: Callable[[], object]) -> ModuleType:
    module = ModuleType("pynvml")
    module.__dict__.update(nvmlInit=lambda: None, nvmlSystemGetDriverVersion=answer)
    return module


def broken(*_: object) -> NoReturn:
    raise RuntimeError("no driver")


MODULE = "NVRM version: NVIDIA UNIX {} Kernel Module {} 575.57.08  Sat May 24 07:03:13 UTC 2025\nGCC version:  gcc 12\n"


@pytest.mark.parametrize(("answer", "kernel", "driver"), [
    (lambda: "570.86.15", None, "570.86.15"),
    (lambda: b"470.82.01", None, "470.82.01"),
    (broken, MODULE.format("x86_64", ""), "575.57.08"),
    (broken, MODULE.format("Open", "for x86_64 "), "575.57.08"),
    (broken, "nonsense\n", None),
    (broken, None, None),
], ids=["library", "old library", "kernel module", "open kernel module", "nonsense", "nothing"])  # fmt: skip
def test_the_driver_is_named_by_its_library_or_its_kernel_module(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[], object],
    kernel: str | None,
    driver: str | None,
) -> None:
    """A container may have neither ``nvidia-smi`` nor the library."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml(answer))
    monkeypatch.setattr(provenance, "_NVIDIA", tmp_path / "version")
    if kernel is not None:
        (tmp_path / "version").write_text(kernel)
    assert provenance.gpu_driver() == driver


def test_an_amd_gpu_has_no_nvidia_driver_and_is_named_with_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is blank or ``AMD Radeon Graphics`` where a list of names is missing."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml(lambda: "570.86.15"))
    monkeypatch.setattr(torch.version, "hip", "6.4.43482")
    properties = SimpleNamespace(gcnArchName="gfx942:sramecc+:xnack-")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    for name, known in (("AMD Instinct MI300X", "AMD Instinct MI300X gfx942"), ("", "gfx942")):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert (environment(GPU)["device_model"], environment(GPU)["gpu_driver"]) == (known, None)


def test_a_slice_of_a_gpu_keeps_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    assert environment(GPU)["device_model"] == "NVIDIA H100 80GB HBM3 MIG 1g.10gb"


SOURCES: dict[str, tuple[Any, str]] = {
    "git_commit": (provenance, "git_state"),
    "cpu_model": (provenance, "cpu_model"),
    "device_model": (torch.cuda, "get_device_name"),
    "gpu_driver": (provenance, "gpu_driver"),
    "platform": (platform, "platform"),
    "python_version": (platform, "python_version"),
}
"""Column -> where its text comes from."""


@pytest.mark.parametrize("column", SOURCES)
def test_a_source_that_fails_leaves_its_column_empty(monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    monkeypatch.setattr(*SOURCES[column], broken)
    assert environment(GPU)[column] is None


def test_a_limit_of_time_is_no_failure_of_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def late() -> NoReturn:
        raise TimeBudgetError("sweep.trial_timeout_s=1 reached")

    monkeypatch.setattr(platform, "platform", late)
    with pytest.raises(TimeBudgetError):
        environment(CPU)


def test_a_trial_whose_machine_tells_nothing_is_measured_all_the_same(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name in SOURCES.values():
        monkeypatch.setattr(place, name, broken)
    config = configure("model=mlp")
    row = harness.run_trial(config).trial
    assert row["status"] == "ok"
    assert {row[name] for name in (*SOURCES, "git_dirty")} == {None}
    assert results.problems_in(Path(config.results.dir)) == []
    assert json.loads(row["package_versions"])["torch"] == row["torch_version"]
