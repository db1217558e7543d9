"""``python -m harness.explain`` as a user types it."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.compose import load_config
from harness.cures import cures_of
from harness.explain import explain, main


def test_the_zero_kernel_is_explained_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.explain", "init=zero", "device=cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 100
    for words in (
        "│ fc2.bias     │ ########",
        "│ conv2.weight │ ........",
        "it outputs only zeros, and no gradient comes back, because of conv2.weight",
        "network: dead: the weights of 6 of 6 layers",
        "conv2.weight drawn by he │ 12 of 12 tensors get a gradient; 6 of 6 layers cured",
        "init.layers.conv2=he_normal",
    ):
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == [], "it trains nothing and writes nothing"


def test_a_deep_network_fits_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    shape = ("model=deep", "model.depth=30", "model.width=4", "model.activation=tanh", "train.batch_size=5")
    assert main(["init=delta_orthogonal", "device=cpu", *shape]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert f"conv30.weight │ {'#' * 8}" in printed
    assert "…" not in printed


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["init=gloort"], 2, "Could not find 'init/gloort'"),
        (["-m", "init=zero"], 2, "unrecognized arguments: -m; python -m harness.explain --help shows the options"),
        (["init=zero,glorot"], 2, "Ambiguous value for argument 'init=zero,glorot'"),
        (["--config-dir=nowhere"], 2, "argument --config-dir: nowhere: no such folder"),
        (["--config-dir"], 2, "argument --config-dir: expected one argument"),
        (
            ["init.gain=much"],
            2,
            "init.gain=much: neither a finite number nor a rule; give a finite number, auto or torch",
        ),
        (["init=lsuv", "+init.layers.conv2=zeros", "device=cpu"], 1, "lsuv: the output of layer 'conv2' does not vary"),
    ],
    ids=["choice", "switch", "sweep", "folder", "no-folder", "gain", "refused"],
)
def test_what_cannot_be_explained_is_one_line(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert words in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("name", ["mine", "größe", "x=1", "p,q", "it's", "a b"])
def test_config_dir_offers_the_users_own_choices(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name / "init").mkdir(parents=True)
    (tmp_path / name / "init/silent.yaml").write_text("# nothing\nweight: zeros\n")
    assert main(["init=silent", f"--config-dir={tmp_path / name}", "model=mlp", "device=cpu"]) == 0
    assert "network: dead" in capsys.readouterr().out


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "usage: python -m harness.explain" in capsys.readouterr().out


CURABLE = {
    "zero kernel": (["init=zero"], "init.layers.conv2=he_normal"),
    "typed with a plus": (
        ["init=zero", "+init.layers.conv3=zeros"],
        "init.layers.conv2=he_normal ++init.layers.conv3=he_normal",
    ),
    "a bias": (
        ["model=mlp", "+init.bias_layers.fc2=constant", "+init.bias_options.value=-500"],
        "++init.bias_layers.fc2=zeros",
    ),
    "a branch": (
        ["model=residual", "model.depth=1", "init=skipinit", "+init.layers.block1_conv2=zeros"],
        "init.branch_scale=1",
    ),
    "the rate": (["model=mlp", "optimizer.lr=1"], "optimizer.lr="),
    "all units alike": (["init=all_zero", "model=mlp", "model.activation=softplus"], "+init.layers.fc2="),
    "a size": (["model=mlp", "+init.layers.fc1=normal", "+init.layers.fc2=normal", "+init.options.std=1e-9"], "++init"),
    "the function": (
        ["model=deep", "model.depth=30", "model.width=4", "init=he", "model.activation=hardsigmoid"],
        "model.activation=",
    ),
}


@pytest.mark.parametrize("name", CURABLE)
def test_cures_that_are_offered_cure_when_they_are_pasted(name: str) -> None:
    """Each takes the place of the choice of the same name, or is added."""
    typed, expected = CURABLE[name]
    overrides = [*typed, "device=cpu", "train.batch_size=20"]
    explanation = explain(load_config(overrides))
    assert not explanation.diagnosis.ok
    cures = cures_of(explanation.config, explanation.diagnosis, overrides)
    assert any(cure.typed.startswith(expected) for cure in cures), cures
    for cure in cures:
        pasted = shlex.split(cure.typed)
        replaced = {choice.partition("=")[0].lstrip("+") for choice in pasted if choice[0] != "~"}
        kept = [override for override in overrides if override.partition("=")[0].lstrip("+") not in replaced]
        assert explain(load_config([*kept, *pasted])).diagnosis.network.kind == cure.finding.kind


def test_nothing_is_offered_for_a_network_that_learns() -> None:
    overrides = ["model=mlp", "init=he", "device=cpu"]
    explanation = explain(load_config(overrides))
    assert explanation.diagnosis.ok
    assert cures_of(explanation.config, explanation.diagnosis, overrides) == []
