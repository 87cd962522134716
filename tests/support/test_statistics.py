"""Intervals and tests against values from their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from engram.support.statistics import holm, mcnemar, paired_bootstrap, ratio_bootstrap, spread, wilson


def outcomes(both: int, fixed: int, broken: int, neither: int) -> tuple[list[bool], list[bool]]:
    before = [True] * both + [False] * fixed + [True] * broken + [False] * neither
    after = [True] * both + [True] * fixed + [False] * broken + [False] * neither
    return before, after


def test_the_bootstrap_is_seeded() -> None:
    pairs = outcomes(10, 12, 4, 14)
    assert paired_bootstrap(*pairs) == paired_bootstrap(*pairs)
    assert paired_bootstrap(*pairs) != paired_bootstrap(*outcomes(10, 13, 4, 13))


@pytest.mark.parametrize(("counts", "share"), [((0, 20, 0, 0), 1.0), ((0, 0, 20, 0), -1.0), ((9, 0, 0, 11), 0.0)])
def test_degenerate_outcomes_have_degenerate_intervals(counts: tuple[int, int, int, int], share: float) -> None:
    assert paired_bootstrap(*outcomes(*counts)) == (share, share)


@pytest.mark.parametrize("function", [mcnemar, paired_bootstrap])
def test_unpaired_outcomes_are_a_mistake_of_ours_and_none_measure_nothing(function: object) -> None:
    assert callable(function) and function([], []) is None
    with pytest.raises(ValueError):
        function([True], [True, False])


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (1, 1), (8, 10), (69, 272), (200, 203), (5000, 10000)])
def test_wilson_is_statsmodels(successes: int, n: int) -> None:
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, method="wilson")
    assert wilson(successes, n) == pytest.approx((max(low, 0.0), min(high, 1.0)), abs=1e-9)
    assert wilson(0, 0) is None


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (5, 0), (0, 6), (8, 2), (3, 3), (40, 21)])
def test_mcnemar_is_statsmodels(fixed: int, broken: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar as theirs

    table = [[11, broken], [fixed, 6]]
    assert mcnemar(*outcomes(11, fixed, broken, 6)) == pytest.approx(theirs(table, exact=True).pvalue)


@pytest.mark.parametrize("p_values", [[], [0.2], [0.01, 0.04, 0.03], [0.5, 0.001, 0.5, 0.9], [1.0, 1.0], [0.02] * 6])
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    wanted = multipletests(p_values, method="holm")[1].tolist() if p_values else []
    assert holm(p_values) == pytest.approx(wanted)


def test_the_cluster_bootstrap_is_a_plain_one_over_clusters() -> None:
    """Against a resampling of whole clusters written out, on clusters of unequal size."""
    random = np.random.default_rng(1)
    clusters = random.integers(0, 30, 200)
    effect = random.random(30)[clusters]
    before, after = random.random(200) < 0.3, random.random(200) < effect
    members = [np.flatnonzero(clusters == c) for c in np.unique(clusters)]
    difference = after.astype(float) - before
    means = []
    for _ in range(4000):
        rows = np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])
        means.append(difference[rows].mean())
    wanted = np.percentile(means, [2.5, 97.5])
    found = paired_bootstrap(before.tolist(), after.tolist(), clusters.tolist())
    assert found == pytest.approx(wanted, abs=0.02)
    alone = paired_bootstrap(before.tolist(), after.tolist())
    assert alone and found and found[1] - found[0] > 1.3 * (alone[1] - alone[0])


def test_the_ratio_bootstrap_covers_scipys() -> None:
    from scipy.stats import bootstrap

    random = np.random.default_rng(3)
    sizes = random.integers(5, 40, 60).astype(float)
    sums = sizes * random.normal(0.3, 0.4, 60)
    theirs = bootstrap(
        (sums, sizes), lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis), paired=True, method="percentile",
        n_resamples=10_000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert ratio_bootstrap(sums.tolist(), sizes.tolist()) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ratio_bootstrap([], []) is None


@pytest.mark.parametrize("values", [[0.5], [0.9, 0.95, 1.0], [1.0, 1.0]])
def test_spread_is_numpys(values: list[float]) -> None:
    found = spread(values)
    assert found["mean"] == pytest.approx(np.mean(values)) and found["n"] == len(values)
    assert (found["min"], found["max"]) == (min(values), max(values))
    assert found["sd"] == (pytest.approx(np.std(values, ddof=1)) if len(values) > 1 else None)
    assert spread([]) == {"n": 0, "mean": None, "sd": None, "min": None, "max": None}
