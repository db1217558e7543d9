"""How numbers are kept and written: few digits, and None where there is none."""

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEPT_DIGITS = 4
_SMALLEST_PLAIN, _LARGEST_PLAIN = 1e-3, 1e7

Number = float | int | None


def kept(values: "Sequence[Any] | pd.Series[Any] | NDArray[Any]", digits: int = _KEPT_DIGITS) -> list[Number]:
    """Numbers for JSON: ``digits`` significant ones, whole numbers as such, None for NaN, infinities and nulls."""
    plain = values if isinstance(values, np.ndarray) else pd.Series(values).to_numpy(float, na_value=math.nan)
    return [_rounded(value, digits) for value in plain.tolist()]


def one(value: Any, digits: int = _KEPT_DIGITS) -> Number:  # noqa: ANN401 - numbers and nulls of Python, numpy, pandas
    """A single one of :func:`kept`."""
    return None if pd.isna(value) else _rounded(float(value), digits)


def _rounded(value: float, digits: int) -> Number:
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < _LARGEST_PLAIN else rounded


def shown(value: float | None, digits: int = 3) -> str:
    """For a reader: significant digits, thousands separated; "-" for None and NaN."""
    stored = one(value)
    if stored is None:
        return "-"
    # as the page's script rounds what it is given: the number of few digits, a half upwards
    number = one(float(Context(prec=digits, rounding=ROUND_HALF_UP).plus(Decimal(stored))), digits) or 0
    if number == 0 or _SMALLEST_PLAIN <= abs(number) < _LARGEST_PLAIN:
        return f"{number:,}"
    mantissa, _, exponent = f"{number:.{digits - 1}e}".partition("e")
    return f"{mantissa}e{int(exponent):+d}"


def percent(share: float | None) -> str:
    """A share as percent; "-" for None and NaN."""
    number = one(share)
    return "-" if number is None else f"{shown(100 * number)}\u00a0%"


def probability(p: float | None) -> str:
    """A p value; "-" for None and NaN."""
    number = one(p, 6)
    if number is None:
        return "-"
    return "< 0.001" if number < 1e-3 else f"{number:.3f}"


def to(low: float | None, high: float | None) -> str:
    """An interval, "" where there is none."""
    return "" if one(low) is None or one(high) is None else f"{shown(low)} to {shown(high)}"


def spread(quartiles: Sequence[float | None], digits: int = 3) -> str:
    """Median (lower to upper quartile) from (q25, median, q75)."""
    low, middle, high = quartiles
    if one(middle) is None:
        return "-"
    return f"{shown(middle, digits)} ({shown(low, digits)} to {shown(high, digits)})"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a sentence; after ``most`` of them, how many more."""
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
