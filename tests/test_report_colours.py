"""The looks of arms: told apart on both pages, by readers who lack a colour receptor too."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

SCRIPT = (Path(__file__).parent.parent / "harness/report/charts.js").read_text(encoding="utf-8")
PAPER = {"light": "#ffffff", "dark": "#14171b"}
ARMS = range(35)
LEAST_DISTANCE, LEAST_CONTRAST = 20, 3
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour: str) -> np.ndarray:
    """Linear RGB of ``#rrggbb``, (3,)."""
    part = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of linear RGB, (3,)."""
    share = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one: str, other: str, sight: str) -> float:
    """CIE76 Delta E; 2.3 is just noticeable side by side."""
    seen = [lab(np.array(SIGHT[sight]) @ linear(colour)) for colour in (one, other)]
    return float(np.linalg.norm(seen[0] - seen[1]))


def contrast(one: str, other: str) -> float:
    """WCAG's contrast."""
    low, high = sorted(float(XYZ[1] @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def constant(name: str) -> list[str]:
    """A list of the script."""
    (text,) = re.findall(rf"{name}[:=] *(\[.*?\])[,;]", SCRIPT.replace(" = ", "="), re.DOTALL)
    return json.loads(text)


def looks(theme: str) -> list[tuple[str, str, str]]:
    """Colour, dash and marker of each arm, by the rule of the script's ``style``."""
    lists = {"COLOURS[theme]": constant(theme), "DASHES": constant("DASHES"), "SYMBOLS": constant("SYMBOLS")}
    moduli = dict(re.findall(r"(COLOURS\[theme\]|DASHES|SYMBOLS)\[arm\.id % (\d+)\]", SCRIPT))
    assert {name: len(choices) for name, choices in lists.items()} == {name: int(by) for name, by in moduli.items()}
    return [tuple(choices[arm % len(choices)] for choices in lists.values()) for arm in ARMS]


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", PAPER)
def test_arms_of_one_dash_differ_in_colour(theme: str, sight: str) -> None:
    """Any two of the first 35 arms have different dashes, or colours that no reader takes for each other."""
    alike = [
        (arm, other, round(distance(one[0], two[0], sight), 1))
        for (arm, one), (other, two) in itertools.combinations(enumerate(looks(theme)), 2)
        if one[1] == two[1] and distance(one[0], two[0], sight) < LEAST_DISTANCE
    ]
    assert alike == []


@pytest.mark.parametrize("theme", PAPER)
def test_looks_repeat_only_after_280_arms(theme: str) -> None:
    lists = [constant(theme), constant("DASHES"), constant("SYMBOLS")]
    assert len({tuple(choices[arm % len(choices)] for choices in lists) for arm in range(280)}) == 280


@pytest.mark.parametrize("theme", PAPER)
def test_every_colour_stands_out_from_the_page(theme: str) -> None:
    assert min(contrast(colour, PAPER[theme]) for colour in constant(theme)) >= LEAST_CONTRAST


def test_distance_is_known_for_black_and_white() -> None:
    assert distance("#000000", "#ffffff", "normal") == pytest.approx(100, abs=0.5)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    # the two blues that the page once had
    assert distance("#0072b2", "#2a86c0", "normal") < LEAST_DISTANCE
