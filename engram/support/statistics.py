"""Intervals and paired tests, from scipy and numpy."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

RESAMPLES = 10_000
FEWEST = 5  # patterns of a category below which there is no verdict: no outcome of five pairs is significant either
Interval = tuple[float, float]
Clusters = Sequence[Hashable] | None


def wilson(successes: int, n: int) -> Interval | None:
    """The 95 % Wilson score interval of a share; None if n is 0. Wilson (1927), through scipy."""
    if n == 0:
        return None
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float | None:
    """The two-sided p-value of the exact McNemar test on paired outcomes; None if there is no pair.

    Under no change, each pair that differs is equally likely to have been fixed or broken: a binomial test of
    those pairs alone. McNemar (1947), exact form. 1.0 where no pair differs. Pairs are independent: one a pattern.
    """
    if not before:
        return None
    from scipy.stats import binomtest

    fixed = sum(a and not b for b, a in zip(before, after, strict=True))
    broken = sum(b and not a for b, a in zip(before, after, strict=True))
    return float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0


def paired_bootstrap(before: Sequence[bool], after: Sequence[bool], clusters: Clusters = None) -> Interval | None:
    """The 95 % percentile interval of the mean difference, resampling clusters of pairs; None if there is no pair.

    `clusters` names each pair's cluster (its pattern), since answers to several phrasings of one pattern are not
    independent; without it every pair is its own. Efron (1979); 10,000 resamples of whole clusters (Davison and
    Hinkley 1997, 3.8). Clusters of equal sum and size are alike, so a resample is one multinomial draw.
    """
    differences = [float(int(a) - int(b)) for b, a in zip(before, after, strict=True)]
    return ratio_bootstrap(differences, [1.0] * len(differences), clusters)


def ratio_bootstrap(sums: Sequence[float], sizes: Sequence[float], clusters: Clusters = None) -> Interval | None:
    """The 95 % percentile interval of Σ sums / Σ sizes, resampling clusters; None if there is nothing.

    With `sums` the differences of nats and `sizes` the tokens of each row, it is that of nats per token.
    """
    if not sums:
        return None
    import numpy as np

    names = clusters if clusters is not None else range(len(sums))
    totals: dict[Hashable, tuple[float, float]] = {}
    for name, part, size in zip(names, sums, sizes, strict=True):
        known = totals.get(name, (0.0, 0.0))
        totals[name] = (known[0] + part, known[1] + size)
    kinds = sorted(Counter(totals.values()).items())
    shares = np.array([count for _, count in kinds]) / len(totals)
    draws = np.random.default_rng(0).multinomial(len(totals), shares, size=RESAMPLES)
    values = np.array([kind for kind, _ in kinds])
    low, high = np.percentile(draws @ values[:, 0] / (draws @ values[:, 1]), [2.5, 97.5])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number, in the same order: Holm (1979), step down, never above 1."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def spread(figures: Iterable[float | None]) -> dict[str, float | int | None]:
    """Number, mean, sample standard deviation (None below two), smallest and largest of the runs' known figures."""
    values = [figure for figure in figures if figure is not None]
    n = len(values)
    mean = sum(values) / n if n else None
    deviation = statistics.stdev(values) if n > 1 else None
    return {"n": n, "mean": mean, "sd": deviation, "min": min(values, default=None), "max": max(values, default=None)}
