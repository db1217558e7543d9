"""The private names of other packages that this project uses: they are there, and do what we use them for.

A package may take a private name away in any release. The test that fails then says which release did, what the name
was for and what to use instead.
"""

import ast
import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class PrivateApi:
    """A private name: ``module`` and ``name`` are where it lies; ``works`` uses it as the project does."""

    package: str
    module: str
    name: str
    used_for: str
    instead: str
    works: Callable[[], bool]


def _splits_a_sweep() -> bool:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = OverridesParser.create().parse_overrides(["seed=1,2,3", "init=zero,he"])
    return len(BasicSweeper.split_arguments(overrides, None)[0]) == 6


def _plans_a_sweep() -> bool:
    from harness.sweep.plan import plan_from

    return plan_from(["seed=1,2", "init=zero,he"])[0].size == 4


def _reads_the_sweepers_params() -> bool:
    from hydra._internal.core_plugins import basic_sweeper

    return basic_sweeper.BasicSweeper(None, {"seed": "1,2"})._parse_config() == ["seed=1,2"]


def _calls_back() -> bool:
    from hydra._internal.callbacks import Callbacks

    return Callbacks(OmegaConf.create({"hydra": {"callbacks": {}}})).callbacks == []


def _parses_switches() -> bool:
    from hydra._internal.utils import get_args_parser

    switches = get_args_parser().parse_args(["-m", "seed=1,2"])
    return bool(switches.multirun) and switches.overrides == ["seed=1,2"]


def _reads_a_missing_node() -> bool:
    return OmegaConf.create({"a": "???"})._get_node("a") is not None


def _differentiates_an_operator() -> bool:
    from torch._library.autograd import Info, make_autograd_impl

    def backward(_ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient

    sine = torch.ops.aten.sin.default
    return callable(make_autograd_impl(sine, Info(backward, None)))


def _sees_transforms() -> bool:
    seen = []

    def note(value: torch.Tensor) -> torch.Tensor:
        seen.append(torch._C._are_functorch_transforms_active())
        return value

    torch.vmap(note)(torch.ones(2))
    return [*seen, torch._C._are_functorch_transforms_active()] == [True, False]


def _sees_modes() -> bool:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        within = torch._C._len_torch_dispatch_stack()
    return (within, torch._C._len_torch_dispatch_stack()) == (1, 0)


def _lists_torchs_own_cases() -> bool:
    from torch.testing._internal.common_methods_invocations import error_inputs_conv2d, sample_inputs_conv2d

    return callable(error_inputs_conv2d) and callable(sample_inputs_conv2d)


def _computes_fans() -> bool:
    return torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(4, 3, 2, 2)) == (12, 16)


def _makes_fake_tensors() -> bool:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(2).shape == (2,)


def _keeps_resolvers() -> bool:
    from omegaconf.basecontainer import BaseContainer

    return "oc.env" in BaseContainer._resolvers


def _disables_a_default_device() -> bool:
    with torch.device("meta"), torch._C.DisableTorchFunction():
        return torch.empty(1).device.type == "cpu"


PRIVATE_APIS = [
    PrivateApi(
        "omegaconf",
        "omegaconf.basecontainer",
        "BaseContainer._resolvers",
        "harness/compose.py leaves the resolvers of the program around as they were with it",
        "hydra.core.singleton.Singleton.get_state() and set_state()",
        _keeps_resolvers,
    ),
    PrivateApi(
        "torch",
        "torch._C",
        "DisableTorchFunction",
        "harness/torch_state.py runs a trial in a program that has another default device with it",
        "with torch.device('cpu'), which slows every call",
        _disables_a_default_device,
    ),
    PrivateApi(
        "torch",
        "torch._C",
        "_are_functorch_transforms_active",
        "kernels/operators.py computes without the dispatcher where no transform is active",
        "call the operator always; it takes twice as long on the host",
        _sees_transforms,
    ),
    PrivateApi(
        "torch",
        "torch._C",
        "_len_torch_dispatch_stack",
        "kernels/operators.py computes without the dispatcher where no mode is active",
        "call the operator always; it takes twice as long on the host",
        _sees_modes,
    ),
    PrivateApi(
        "hydra-core",
        "hydra._internal.core_plugins.basic_sweeper",
        "BasicSweeper",
        "harness/run.py counts the trials of a sweep with it",
        "multiply the lengths of the sweep_string_iterator() of the parsed overrides",
        _splits_a_sweep,
    ),
    PrivateApi(
        "hydra-core",
        "hydra._internal.core_plugins",
        "basic_sweeper",
        "harness/sweep/plan.py splits a sweep into its trials as its BasicSweeper does",
        "parse hydra.sweeper.params and what was typed, and multiply their sweep_string_iterator()",
        _reads_the_sweepers_params,
    ),
    PrivateApi(
        "hydra-core",
        "hydra._internal.config_loader_impl",
        "ConfigLoaderImpl",
        "harness/sweep composes with it, without the global state of hydra.initialize",
        "GlobalHydra.instance().config_loader() within hydra.initialize_config_dir",
        _plans_a_sweep,
    ),
    PrivateApi(
        "hydra-core",
        "hydra._internal.hydra",
        "Hydra",
        "harness/sweep/plan.py registers Hydra's resolvers and the job's name by making one",
        "GlobalHydra.instance().hydra within hydra.initialize_config_dir",
        _plans_a_sweep,
    ),
    PrivateApi(
        "hydra-core",
        "hydra._internal.utils",
        "create_config_search_path",
        "harness/sweep/plan.py puts --config-dir before our own choices with it",
        "hydra.searchpath=[file://DIR], which comes after them",
        _plans_a_sweep,
    ),
    PrivateApi(
        "hydra-core",
        "hydra._internal.utils",
        "get_args_parser",
        "harness/run.py reads the switches with it, so that a wrong one is refused in one line",
        "find -m and --multirun in sys.argv, and catch SystemExit around hydra.main",
        _parses_switches,
    ),
    PrivateApi(
        "hydra-core",
        "hydra._internal.callbacks",
        "Callbacks",
        "harness/sweep/launch.py gives a launcher what Hydra's own sweeper gives it",
        "let hydra.main run the sweep with a task function that does what a job does",
        _calls_back,
    ),
    PrivateApi(
        "omegaconf",
        "omegaconf.dictconfig",
        "DictConfig._get_node",
        "harness/compose.py makes the nodes of frozen dataclasses writable, those whose value is missing too",
        "build the schema from unfrozen copies of the dataclasses",
        _reads_a_missing_node,
    ),
    PrivateApi(
        "torch",
        "torch._library.autograd",
        "make_autograd_impl",
        "kernels/operators.py registers gradients with it, and refuses forward-mode derivatives before",
        "torch.library.register_autograd, with which a forward-mode derivative is 0 and not refused",
        _differentiates_an_operator,
    ),
    PrivateApi(
        "torch",
        "torch._library.autograd",
        "Info",
        "kernels/operators.py hands backward and setup_context to make_autograd_impl with it",
        "torch.library.register_autograd, with which a forward-mode derivative is 0 and not refused",
        _differentiates_an_operator,
    ),
    PrivateApi(
        "torch",
        "torch.nn.init",
        "_calculate_fan_in_and_fan_out",
        "tests/test_initializers.py compares our fans with torch's",
        "write the expected fans into the test",
        _computes_fans,
    ),
    PrivateApi(
        "torch",
        "torch._subclasses.fake_tensor",
        "FakeTensorMode",
        "tests/interpreted runs the operators on tensors without data",
        "torch.compile with fullgraph=True, which uses it inside",
        _makes_fake_tensors,
    ),
]


TORCHS_CASES = [
    PrivateApi(
        "torch",
        "torch.testing._internal.common_methods_invocations",
        "sample_inputs_conv2d",
        "tests/interpreted runs torch's own cases of conv2d through our kernels",
        "copy the sizes of those cases into the tests",
        _lists_torchs_own_cases,
    ),
    PrivateApi(
        "torch",
        "torch.testing._internal.common_methods_invocations",
        "error_inputs_conv2d",
        "tests/interpreted gives our kernels what torch's conv2d refuses",
        "copy those inputs into the tests",
        _lists_torchs_own_cases,
    ),
]
"""Checked in ``tests/interpreted``, which run in processes of their own: importing them changes torch for good."""


def require(api: PrivateApi) -> None:
    """Fail with what there is to know if the name is gone or does something else."""
    try:
        functools.reduce(getattr, api.name.split("."), importlib.import_module(api.module))
        problem = None if api.works() else "does something else"
    except (ImportError, AttributeError, TypeError, NotImplementedError) as error:
        problem = f"is gone ({type(error).__name__}: {error})"
    if problem:
        pytest.fail(
            f"{api.package} {importlib.metadata.version(api.package)}: {api.module}.{api.name} {problem}; "
            f"{api.used_for}; use instead: {api.instead}"
        )


@pytest.fixture(autouse=True)
def _imported() -> None:
    """A module is a name of its package once it is imported; Hydra's search for plugins leaves that out."""
    module = importlib.import_module("hydra._internal.core_plugins.basic_sweeper")
    vars(importlib.import_module("hydra._internal.core_plugins"))["basic_sweeper"] = module


@pytest.mark.parametrize("api", PRIVATE_APIS, ids=lambda api: api.name)
def test_private_name_is_there_and_works(api: PrivateApi) -> None:
    require(api)


def require_report(api: PrivateApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the name away: package, release and what to use instead must be said."""
    *owners, last = api.name.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(api.module))
    monkeypatch.delattr(owner, last)
    with pytest.raises(pytest.fail.Exception) as failed:
        require(api)
    message = str(failed.value)
    assert message.startswith(f"{api.package} {importlib.metadata.version(api.package)}: {api.module}.{api.name} ")
    assert api.instead in message


@pytest.mark.parametrize("api", PRIVATE_APIS, ids=lambda api: api.name)
def test_a_name_taken_away_is_reported(api: PrivateApi, monkeypatch: pytest.MonkeyPatch) -> None:
    require_report(api, monkeypatch)


def private_imports(path: Path) -> set[str]:
    """The private names of other packages that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    foreign = {name for name in names if name.split(".")[0] not in {"harness", "kernels", "__future__"}}
    return {name for name in foreign if any(part.startswith("_") for part in name.split("."))}


def test_every_private_import_has_its_test() -> None:
    listed = {f"{api.module}.{api.name}" for api in (*PRIVATE_APIS, *TORCHS_CASES)}
    files = [path for folder in ("harness", "kernels", "scripts", "tests") for path in (ROOT / folder).rglob("*.py")]
    used = {name: path for path in files for name in private_imports(path)}
    assert {name for name in used if name.startswith(("hydra.", "torch."))}, "the search itself sees private names"
    assert not {name: str(path.relative_to(ROOT)) for name, path in used.items() if name not in listed}
