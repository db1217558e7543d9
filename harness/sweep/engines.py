"""The launchers of Hydra that run a sweep's jobs: what each needs, what it may be asked for, how many jobs it runs.

Nothing of theirs is imported here before one of them is asked for, because each is an extra.
"""

import importlib
import os
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from harness.cores import usable_cores
from harness.errors import UsageError

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_RAY_LOCAL = {"logging_level": 30, "include_dashboard": False}
# the plugin would give the object store a size, which Ray refuses where it runs already
_RAY_CLUSTER = {"logging_level": 30, "object_store_memory": None}
_GROUP = "hydra/launcher"


@dataclass(frozen=True)
class Engine:
    """A launcher that is known to work.

    Attributes:
        name: the choice, as in ``hydra/launcher=joblib``.
        extra: of this package, which installs it.
        target: its class.
    """

    name: str
    extra: str
    target: str

    @property
    def has_logs(self) -> bool:
        """Whether the output of its jobs goes to files below ``hydra.sweep.dir``."""
        return self.extra == "slurm"

    @property
    def outlives_its_command(self) -> bool:
        """Whether its jobs go on when the command that submitted them ends."""
        return self.name == "submitit_slurm"


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("joblib", "joblib", "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"),
        Engine("submitit_local", "slurm", "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"),
        Engine("submitit_slurm", "slurm", "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"),
        Engine("ray", "ray", "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"),
    )
}


def refuse_missing(config_file: str | None) -> None:
    """Refuse a launcher whose package is not installed.

    Args:
        config_file: the choice that Hydra could not read, such as ``hydra/launcher/ray``.

    Raises:
        UsageError: it is a launcher.
    """
    group, _, name = (config_file or "").rpartition("/")
    if group != _GROUP:
        return
    if name in ENGINES:
        raise UsageError(f"{_GROUP}={name}: not installed; pip install 'initbench[{ENGINES[name].extra}]'")
    raise UsageError(f"{_GROUP}={name}: no such launcher; give basic, {', '.join(ENGINES)}")


def engine_of(composed: DictConfig) -> Engine | None:
    """Return the launcher that a command asks for, its settings checked; None: Hydra's basic one.

    Args:
        composed: the command as Hydra composed it.

    Raises:
        UsageError: it is none of :data:`ENGINES`, or has a setting that would run trials twice or not at all.
    """
    settings = composed.hydra.launcher
    target = None if settings is None else settings.get("_target_")
    if target == BASIC:
        return None
    engine = next((each for each in ENGINES.values() if each.target == target), None)
    if engine is None:
        name = composed.hydra.runtime.choices.get(_GROUP)
        raise UsageError(f"{_GROUP}={name}: not supported; give basic, {', '.join(ENGINES)}")
    _check(engine, settings)
    return engine


def _check(engine: Engine, settings: DictConfig) -> None:
    if engine.has_logs:
        for name in ("nodes", "tasks_per_node"):
            if settings.get(name, 1) != 1:
                fix = f"give hydra.launcher.{name}=1 and set sweep.workers"
                raise UsageError(f"hydra.launcher.{name}={settings[name]}: each task would run the same trials; {fix}")
    if engine.name == "joblib" and settings.n_jobs == 0:
        raise UsageError("hydra.launcher.n_jobs=0: runs nothing; give a number of jobs, or -1 for one a core")


def adapt(engine: Engine, composed: DictConfig) -> None:
    """Complete a launcher's settings where its own defaults are in the way; what was typed stays."""
    if engine.name != "ray":
        return
    own = composed.hydra.launcher.ray.init
    with open_dict(own):
        # without an address Ray would join whatever cluster was last started on this machine
        own.address = _ray_address(composed)
        wanted = _RAY_CLUSTER if own.address != "local" else {**_RAY_LOCAL, "num_cpus": len(usable_cores())}
        for name, value in wanted.items():
            own.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _ray_address(composed: DictConfig) -> str:
    return composed.hydra.launcher.ray.init.get("address") or os.environ.get("RAY_ADDRESS") or "local"


def at_a_time(engine: Engine, composed: DictConfig, jobs: int) -> int | None:
    """Return how many of so many jobs run on one machine at the same time, as the parent knows it.

    Returns:
        None: only the machine that runs a job can tell, see :func:`at_a_time_here`.
    """
    if engine.name == "joblib":
        import joblib

        return min(jobs, int(joblib.effective_n_jobs(composed.hydra.launcher.n_jobs)))
    if engine.name == "submitit_local":
        # it starts every job at once
        return jobs
    return 1 if engine.name == "submitit_slurm" else _at_a_time_on_ray(composed, jobs)


def _at_a_time_on_ray(composed: DictConfig, jobs: int) -> int | None:
    settings = composed.hydra.launcher.ray
    if _ray_address(composed) != "local" or set(settings.remote) - {"num_cpus", "max_retries"}:
        return None
    cpus = settings.init.get("num_cpus") or len(usable_cores())
    return max(1, min(jobs, int(cpus / (settings.remote.get("num_cpus") or 1))))


def at_a_time_here(jobs: int) -> int:
    """Return how many of so many jobs Ray may run at the same time on the machine of the job that asks."""
    ray: Any = importlib.import_module("ray")
    context = ray.get_runtime_context()
    node = next(each for each in ray.nodes() if each["NodeID"] == context.get_node_id())
    needs = {name: need for name, need in context.get_assigned_resources().items() if need > 0}
    fit = [int(node["Resources"][name] / need) for name, need in needs.items() if name in node["Resources"]]
    return max(1, min([jobs, *(fit or [len(usable_cores())])]))


def job_number() -> int:
    """Return the number of the job that this is, counted from 0, as Hydra gave it."""
    return int(HydraConfig.get().job.num)
