"""Imports point downwards only, and the kernels know nothing of the harness."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# top to bottom; a module may import from rows below its own only
LAYERS = [
    {"run", "explain", "report", "compare"},
    {"sweep"},
    {"audience"},
    {"console"},
    {"cures"},
    {"stacked_trials"},
    {"trial"},
    {"measuring"},
    {"trial_setup"},
    {"engine", "stack_memory", "stack_report"},
    {"rows", "diagnosis", "evaluation", "trial_status"},
    {"resolution"},
    {"train", "metrics", "kernel_check", "kernel_choice", "engine_choice"},
    {"signals", "fusion"},
    {"backends", "initializers"},
    {"own_models"},
    {"models"},
    {"layouts", "data", "timing", "article", "usage", "torch_state"},
    {"analysis"},
    {
        "activations",
        "moments",
        "own_layers",
        "own_modules",
        "results",
        "device",
        "random_streams",
        "looking",
        "own_kernels",
        "provenance",
    },
    {"allocator", "checkout", "processor"},
    {"compose"},
    {"model_choices", "stackable"},
    {"config"},
    {"model_config", "optimizer_config", "sweep_config"},
    {"arguments", "bounds", "model_registry", "datasets", "optimizers"},
    {"time_limit", "paths", "cores"},
    {"errors", "interrupts", "wording", "markdown", "output", "external"},
]
FREE_OF_TORCH = ("config", "compose", "results", "usage", "article", "errors", "run", "explain")
FREE_OF_TORCH += (
    "sweep.plan",
    "sweep.composer",
    "sweep.resume",
    "analysis",
    "report",
    "compare",
    "bounds",
    "datasets",
    "optimizers",
    "checkout",
    "processor",
)


def imported(path: Path) -> set[str]:
    """The modules a file imports anywhere, functions included; ``from harness import x`` counts as harness.x.

    Relative imports are left out.
    """
    modules: set[str] = set()
    tree = ast.parse(path.read_text())
    # names for annotations alone are no dependency
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return modules


def rank(module: str) -> int:
    (layer_index,) = [index for index, layer in enumerate(LAYERS) if module in layer]
    return layer_index


MODULES = [
    path for path in sorted((ROOT / "harness").rglob("*.py")) if path.parent.name != "harness" or path.stem[0] != "_"
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "harness")))
def test_harness_imports_point_downwards(path: Path) -> None:
    """A package within ``harness`` counts as one module."""
    own = path.stem if path.parent == ROOT / "harness" else path.parent.name
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("harness.")} - {own}
    below = {name for name in ours if any(name in layer for layer in LAYERS)}
    assert all(rank(name) > rank(own) for name in below), f"{path.stem} imports {sorted(below)}"


def test_config_needs_neither_hydra_nor_torch() -> None:
    """By what each file says, because importing the package loads Hydra."""
    for module in ("config", "bounds", "datasets", "optimizers"):
        roots = {name.split(".")[0] for name in imported(ROOT / f"harness/{module}.py")}
        assert roots <= {"harness", *sys.stdlib_module_names}


def test_all_there_is_to_know_of_a_results_folder_has_one_address() -> None:
    """Outside ``harness/results`` nobody imports from its modules."""
    outside = [path for path in MODULES if path.parent.name != "results"] + sorted((ROOT / "scripts").glob("*.py"))
    modules = {path.stem for path in (ROOT / "harness/results").glob("[!_]*.py")}
    assert {"schema", "writing", "reading"} <= modules
    for path in outside:
        insides = {name for name in imported(path) if name.removeprefix("harness.results.").split(".")[0] in modules}
        assert not {name for name in insides if name.startswith("harness.results.")}, path.name


def test_kernels_import_torch_and_triton_only() -> None:
    """And each other by relative imports, because their package may be loaded under another name."""
    for path in (ROOT / "kernels").glob("*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        standard = {
            "warnings",
            "itertools",
            "collections",
            "contextlib",
            "dataclasses",
            "functools",
            "math",
            "operator",
            "typing",
        }
        assert roots <= {"torch", "triton", *standard}


def test_the_harness_finds_our_kernels_in_one_place() -> None:
    """``import kernels`` may give another distribution's package; ``harness.own_kernels`` imports by name."""
    importing = [path.name for path in MODULES if "kernels" in {name.split(".")[0] for name in imported(path)}]
    assert importing == []


@pytest.mark.parametrize("module", FREE_OF_TORCH)
def test_reading_results_needs_no_torch(module: str) -> None:
    code = f"import sys, harness.{module}; assert not {{'torch', 'triton'}} & set(sys.modules), 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_loading_a_folder_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    code = "import sys, harness; harness.load(sys.argv[1]); assert not {'torch', 'triton'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)


def test_modules_stay_readable() -> None:
    for path in [*(ROOT / "harness").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 400, path.name
