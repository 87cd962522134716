"""Intervals and paired tests, from scipy and numpy."""

from __future__ import annotations

from collections.abc import Sequence

RESAMPLES = 10_000


def wilson(successes: int, n: int) -> tuple[float, float] | None:
    """The 95 % Wilson score interval of a share; None where n is 0. Wilson (1927), through scipy."""
    if n == 0:
        return None
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float | None:
    """The two-sided p-value of the exact McNemar test on paired outcomes; None where there is no pair.

    Under no change, each pair that differs is equally likely to have been fixed or broken: a binomial test of
    those pairs alone. McNemar (1947), exact form. 1.0 where no pair differs.
    """
    if not before:
        return None
    from scipy.stats import binomtest

    fixed = sum(a and not b for b, a in zip(before, after, strict=True))
    broken = sum(b and not a for b, a in zip(before, after, strict=True))
    return float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0


def paired_bootstrap(before: Sequence[bool], after: Sequence[bool], seed: int = 0) -> tuple[float, float] | None:
    """The 95 % percentile interval of the mean difference, resampling pairs; None where there is no pair.

    Efron (1979); 10,000 resamples. Only the counts of fixed, broken and unchanged pairs matter, so a resample is
    one multinomial draw.
    """
    if not before:
        return None
    import numpy as np

    difference = np.array([int(a) - int(b) for b, a in zip(before, after, strict=True)])
    n = len(difference)
    shares = [np.mean(difference == 1), np.mean(difference == -1), np.mean(difference == 0)]
    draws = np.random.default_rng(seed).multinomial(n, shares, size=RESAMPLES)
    means = (draws[:, 0] - draws[:, 1]) / n
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
