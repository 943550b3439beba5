"""Numbers as tables, progress lines and captions show them."""

from __future__ import annotations

import math
from collections.abc import Sequence

NONE = "-"


def short(x: float | None) -> str:
    """Three significant digits, all of those before the point, or two and an exponent.

    >>> short(0.0123456), short(-123.456), short(0.000123), short(1.26e-6), short(0.0)
    ('0.0123', '-123', '1.2e-4', '1.3e-6', '0')
    >>> short(1000), short(999.6), short(12345.6), short(1e5)
    ('1000', '1000', '12346', '1.0e5')
    >>> short(None), short(float("nan")), short(float("inf"))
    ('-', '-', 'inf')
    """
    if x is None or math.isnan(x):
        return NONE
    if math.isinf(x):
        return f"{x}"
    if x == 0 or 1e-3 <= abs(x) < 1e5:
        return f"{x + 0.0:.3g}" if abs(x) < 999.5 else f"{x:.0f}"
    digits, exponent = f"{x:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def si(x: float | None) -> str:
    """A large number with k, M or G.

    >>> si(950), si(312_345), si(1_500_000), si(None)
    ('950', '312k', '1.5M', '-')
    """
    if x is None:
        return NONE
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(x) >= 0.9995 * factor:
            return f"{x / factor:.3g}{unit}"
    return f"{x:.3g}"


def estimate(mean: float | None, half_width: float | None = None) -> str:
    """A mean and, if there is one, the half-width of its interval, to the same digits.

    >>> estimate(987.123, 12.5), estimate(0.91234, 0.0123), estimate(3.5), estimate(None)
    ('987.1 ± 12.5', '0.912 ± 0.012', '3.500', '-')
    """
    if mean is None:
        return NONE
    digits = 0 if abs(mean) >= 1e4 else 1 if abs(mean) >= 100 else 2 if abs(mean) >= 10 else 3
    text = f"{mean:.{digits}f}"
    return text if half_width is None else f"{text} ± {half_width:.{digits}f}"


def mean_or_extent(mean: float | None, half_width: float | None, values: Sequence[float | None]) -> str:
    """A mean with its interval, or where there is none with the lowest and the highest of what it is the mean of.

    >>> mean_or_extent(2.0, None, [1.0, 3.0]), mean_or_extent(2.0, 0.5, [1.0, 3.0]), mean_or_extent(2.0, None, [2.0])
    ('2.000 (1 to 3)', '2.000 ± 0.500', '2.000')
    """
    known = [x for x in values if x is not None]
    if half_width is not None or len(known) < 2:
        return estimate(mean, half_width)
    return f"{estimate(mean)} ({short(min(known))} to {short(max(known))})"


def percent(x: float | None) -> str:
    """A fraction as a percentage.

    >>> percent(0.984), percent(0.004), percent(None)
    ('98%', '0.4%', '-')
    """
    if x is None:
        return NONE
    return f"{100 * x:.1f}%" if 0 < x < 0.0995 else f"{100 * x:.0f}%"


def seconds(x: float | None) -> str:
    """Seconds, or minutes and hours.

    >>> seconds(4.21), seconds(83.4), seconds(7322)
    ('4.2s', '1m23s', '2h02m')
    """
    if x is None:
        return NONE
    if x < 59.95:
        return f"{x:.1f}s"
    whole = round(x)
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02}m"
