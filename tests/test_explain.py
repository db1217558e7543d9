"""``python -m harness.explain`` as a user types it."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.explain import main


def test_the_zero_kernel_is_explained_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.explain", "init=zero", "device=cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 100
    for words in (
        "│ fc2.bias     │ ########",
        "│ conv2.weight │ ........",
        "it outputs exactly 0, where the derivative is 0",
        "its input is zero, for conv2 outputs only zeros",
        "network: dead: the weights of 6 of 6 layers",
    ):
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == [], "it trains nothing and writes nothing"


def test_a_deep_network_fits_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    shape = ("model=deep", "model.depth=30", "model.width=4", "model.activation=tanh", "train.batch_size=5")
    assert main(["init=delta_orthogonal", "device=cpu", *shape]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert f"conv30.weight │ {'#' * 34}" in printed
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


def test_config_dir_offers_the_users_own_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init/silent.yaml").write_text("# nothing\nweight: zeros\n")
    assert main(["init=silent", f"--config-dir={tmp_path}", "model=mlp", "device=cpu"]) == 0
    assert "network: dead" in capsys.readouterr().out


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "usage: python -m harness.explain" in capsys.readouterr().out
