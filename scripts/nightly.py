"""The nightly job: acceptance of the GPU, a sweep, the comparison with the promoted baseline, the report.

Usage: python scripts/nightly.py [--device cuda|cpu] [--size full|small] [--folder DIR] [--baselines DIR] [--name NAME]

Each night gets a folder of its own below --folder: results, report.html, summary.md, comparison.json and junit.xml. The
first night has nothing to compare with and becomes the baseline, with a warning, for a lost baseline looks the same.
`python -m harness.compare promote RESULTS --baselines DIR --name nightly-DEVICE-SIZE --force` replaces it when a change
is wanted. Thresholds that `python -m harness.compare --calibrate` wrote are used if they
lie beside the baseline as NAME.thresholds.json. On GitHub the summary becomes the job's.

Exit code 0: nothing got worse, or that cannot be told (a warning says so); 1: something got worse or failed; 2: an
error, such as another machine than the baseline's. ``--size small`` is for testing this script: a small network, whose
convergence is judged as that of the large one is, and speed that counts from a factor of four only.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.arguments import one_line_errors, script_parser
from harness.errors import UsageError

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
OK, WORSE, ERROR, INCONCLUSIVE = 0, 1, 2, 3
# full: 4 arms (2 on a CPU, which has no Triton) of 6 measures each need 10 seeds to be separated at all
# small: 2 arms of 6 measures need 9, and every run is at 0.8 after some 40 of its 60 steps
SWEEPS = {
    "full": ["init=glorot,he", "seed=range(0,12)"],
    "small": [
        *("init=glorot,he", "seed=range(0,10)", "model=mlp", "train.steps=60", "train.batch_size=50"),
        *("train.eval_every=4", "train.targets=[0.5,0.7,0.8]"),
    ],
}
KERNELS = {"cuda": "kernel=torch,triton_fused", "cpu": "kernel=torch"}
SMALL_THRESHOLD = "images_per_s=300%"


@dataclass(frozen=True)
class NightlyJob:
    """What was asked for, and where this night's files go."""

    device: str
    size: str
    folder: Path
    baselines: Path
    name: str

    @property
    def results(self) -> Path:
        """The results folder."""
        return self.folder / "results"


def call(*arguments: object) -> int:
    """Python with these arguments; its exit code."""
    print(f"$ python {' '.join(map(str, arguments))}", flush=True)
    return subprocess.run([PYTHON, *map(str, arguments)], check=False).returncode


def accept(night: NightlyJob) -> int:
    """The GPU's acceptance; skipped, and said so, where there is none to accept."""
    if night.device == "cpu":
        print("SKIPPED gpu_acceptance: --device cpu, no GPU is accepted tonight", flush=True)
        return OK
    return call(ROOT / "scripts/gpu_acceptance.py", "--device", night.device)


def sweep(night: NightlyJob) -> int:
    """The trials."""
    line = ["experiment=nightly", f"device={night.device}", KERNELS[night.device], *SWEEPS[night.size]]
    return call("-m", "harness.run", "-m", *line, f"results.dir={night.results}")


def report(night: NightlyJob) -> int:
    """The page, and its short form for the summary; whatever goes wrong with them is an error."""
    page = call("-m", "harness.report", night.results, "--output", night.folder / "report.html")
    short = call("-m", "harness.report", night.results, "--format", "md", "--output", night.folder / "report.md")
    return ERROR if page or short else OK


def compare(night: NightlyJob) -> int:
    """Against the baseline; the first night becomes it."""
    place = ["--baselines", night.baselines]
    if not (night.baselines / night.name).exists():
        code = call("-m", "harness.compare", "promote", night.results, *place, "--name", night.name)
        said = f"## Comparison: none\n\nThe first night: these results are now the baseline {night.name}.\n"
        (night.folder / "comparison.md").write_text(said if code == OK else "## Comparison: error\n")
        print(said if code == OK else "no baseline was made", flush=True)
        print(f"::warning::no baseline {night.name} was there: tonight's results are it, and nothing was compared")
        return code
    kept = night.baselines / f"{night.name}.thresholds.json"
    options: list[object] = ["--thresholds", kept] if kept.exists() else []
    options += ["--threshold", SMALL_THRESHOLD] if night.size == "small" else []
    for form, file in (("markdown", "comparison.md"), ("json", "comparison.json"), ("junit", "junit.xml")):
        options += [f"--{form}", night.folder / file]
    return call("-m", "harness.compare", night.name, night.results, *place, *options)


def summarise(night: NightlyJob, codes: dict[str, int]) -> None:
    """The steps, the comparison and the report as Markdown: a file, and the job's summary on GitHub."""
    parts = ["# Nightly", "\n".join(f"- {step}: exit code {code}" for step, code in codes.items())]
    parts += [path.read_text() for name in ("comparison.md", "report.md") if (path := night.folder / name).exists()]
    text = "\n\n".join(parts) + "\n"
    (night.folder / "summary.md").write_text(text)
    if job := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(job).open("a") as file:
            file.write(text)


def verdict(codes: dict[str, int]) -> int:
    """The exit code of the job: an error outweighs what got worse, and what cannot be told is green with a warning."""
    if codes.get("comparison") == INCONCLUSIVE:
        print("::warning title=Nightly comparison::inconclusive: neither shown to be worse nor to be as good")
    red = {code for step, code in codes.items() if not (step == "comparison" and code == INCONCLUSIVE)} - {OK}
    return OK if not red else WORSE if red == {WORSE} else ERROR


def run(night: NightlyJob) -> int:
    """All of it; a step that fails does not keep what was measured from being shown."""
    codes = {"acceptance": accept(night)}
    if codes["acceptance"] != ERROR:
        codes["sweep"] = sweep(night)
    if codes.get("sweep") in (OK, WORSE):
        first = not (night.baselines / night.name).exists()
        if not (first and any(codes.values())):
            codes["comparison"] = compare(night)
        codes["report"] = report(night)
    summarise(night, codes)
    code = verdict(codes)
    print(f"nightly: {', '.join(f'{step} {step_code}' for step, step_code in codes.items())}: exit code {code}")
    return code


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command and run; the exit code."""
    parser = script_parser("nightly", __doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=tuple(SWEEPS), default="full")
    parser.add_argument("--folder", type=Path, default=Path("outputs/nightly"), help="default: outputs/nightly")
    parser.add_argument("--baselines", type=Path, default=Path("outputs/baselines"), help="default: outputs/baselines")
    parser.add_argument("--name", help="of the baseline (default: nightly-DEVICE-SIZE)")
    options = parser.parse_args(arguments)
    folder = options.folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"--folder {options.folder}: cannot be made ({error.strerror}); name another one") from error
    name = options.name or f"nightly-{options.device}-{options.size}"
    return run(NightlyJob(options.device, options.size, folder, options.baselines, name))


if __name__ == "__main__":
    sys.exit(main())
