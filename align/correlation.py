"""Pearson's correlation of two scores over some systems, with R2, its interval and its p.

    pearson([36.3, 37.2, 36.5, 35.2, 38.0, 41.2], [5.99, 6.18, 5.01, 5.70, 6.22, 6.73])
    Correlation(r=0.734, r2=0.539, low=-0.191, high=0.969, r2_low=0.0, r2_high=0.938, p=0.097, n=6)

(Multi-Modal Preference Alignment, section 4.3, on the rows of its Table 2 that have both.) The interval is Fisher's
(1921), p that of Student's t with n - 2 degrees of freedom. A few systems that were chosen by hand are no sample of any
population: the page says how few they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from align.stats import LEVEL


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """None where too few points, or points that do not differ, leave it open."""

    r: float | None
    r2: float | None
    low: float | None
    high: float | None
    r2_low: float | None
    r2_high: float | None
    p: float | None
    n: int


def pearson(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """The correlation of pairs. From 3 points on there is a p, from 4 on an interval."""
    n = len(x)
    if n != len(y):
        raise ValueError(f"{n} values on one side, {len(y)} on the other")
    r = _r(x, y)
    if r is None:
        return Correlation(r=None, r2=None, low=None, high=None, r2_low=None, r2_high=None, p=None, n=n)
    low = high = r2_low = r2_high = None
    if n > 3 and abs(r) < 1:
        reach = NormalDist().inv_cdf((1 + LEVEL) / 2) / math.sqrt(n - 3)
        low, high = math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)
        r2_low, r2_high = 0.0 if low <= 0 <= high else min(low**2, high**2), max(low**2, high**2)
    return Correlation(r=r, r2=r * r, low=low, high=high, r2_low=r2_low, r2_high=r2_high, p=_p(r, n), n=n)


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float] | None:
    """Slope and height at 0 of the least-squares line; None where x does not differ."""
    middle_x, middle_y = fmean(x), fmean(y)
    spread = sum((a - middle_x) ** 2 for a in x)
    if not spread:
        return None
    slope = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / spread
    return slope, middle_y - slope * middle_x


def _r(x: Sequence[float], y: Sequence[float]) -> float | None:
    if len(x) < 3:
        return None
    a, b = [v - fmean(x) for v in x], [v - fmean(y) for v in y]
    norm = math.sqrt(sum(v * v for v in a) * sum(v * v for v in b))
    return max(-1.0, min(1.0, sum(v * w for v, w in zip(a, b, strict=True)) / norm)) if norm else None


def _p(r: float, n: int) -> float:
    """Two-sided p of r = 0."""
    if abs(r) == 1:
        return 0.0
    return student_p(r * math.sqrt((n - 2) / (1 - r * r)), n - 2)


def student_p(t: float, degrees: int) -> float:
    """Two-sided p of Student's t for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(abs(t) / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    total, term = 0.0, cosine if odd else 1.0
    for k in range(degrees // 2):
        total += term
        term *= cosine**2 * (2 * k + 2) / (2 * k + 3) if odd else cosine**2 * (2 * k + 1) / (2 * k + 2)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1 - inside)
