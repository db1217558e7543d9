"""Statistics: hand-computed cases, independent implementations, laws; see also ``test_analysis_coverage.py``."""

from fractions import Fraction
from itertools import combinations, product
from math import comb, inf, isnan, nan

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight, survdiff
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from harness.analysis import comparison, intervals, survival
from harness.analysis.intervals import Interval

quick = settings(max_examples=40)
TIMES = st.lists(st.sampled_from([0.0, 10.0, 20.0, 30.0, 40.0, inf]), min_size=1, max_size=9)
NUMBERS = st.lists(st.integers(-20, 20).map(float), min_size=2, max_size=12)


# shares


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 3), (7, 10), (10, 10), (29, 30), (500, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_is_that_of_statsmodels(successes: int, n: int, level: float) -> None:
    interval = intervals.wilson(successes, n, level)
    expected = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)


def test_wilson_of_none_of_ten_by_hand() -> None:
    """0 of 10: from 0 to z^2/(n + z^2)."""
    assert intervals.wilson(0, 10) == Interval(0.0, pytest.approx(1.959964**2 / (10 + 1.959964**2), abs=1e-6))
    assert intervals.wilson(0, 0) == Interval(0.0, 1.0)


@given(n=st.integers(1, 200), data=st.data())
@quick
def test_wilson_holds_the_share_and_mirrors(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    interval, mirrored = intervals.wilson(k, n), intervals.wilson(n - k, n)
    assert 0 <= interval.low <= k / n <= interval.high <= 1
    assert interval.low < interval.high
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("n", [10, 30])
def test_wilson_covers_near_its_level(n: int) -> None:
    """Computed, not drawn: averaged over the true share, and never far off away from the ends."""
    ends = [intervals.wilson(k, n) for k in range(n + 1)]
    shares = np.linspace(0.05, 0.95, 181)
    held = np.array([[end.low <= share <= end.high for end in ends] for share in shares])
    coverage = (stats.binom.pmf(np.arange(n + 1), n, shares[:, None]) * held).sum(axis=1)
    assert coverage.mean() == pytest.approx(0.95, abs=0.01)
    assert coverage.min() > 0.83


@pytest.mark.parametrize(("given", "words"), [((11, 10, 0.95), "11 of n=10"), ((1, 2, 1.0), "level=1.0")])
def test_impossible_shares_and_levels_are_refused(given: tuple[int, int, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        intervals.wilson(*given)


# survival


def test_kaplan_meier_by_hand() -> None:
    """Four runs: two reach at 10, one is lost from sight at 15, one reaches at 20."""
    curve = survival.kaplan_meier([10, 20, 10, 15], [True, True, True, False])
    assert curve.times.tolist() == [0, 10, 20]
    assert curve.shares.tolist() == pytest.approx([1, 0.5, 0])


@given(data=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=15))
@quick
def test_kaplan_meier_is_that_of_statsmodels(data: list[tuple[int, bool]]) -> None:
    times, reached = (list(part) for part in zip(*data, strict=True))
    assume(any(reached))
    curve, expected = survival.kaplan_meier(times, reached), SurvfuncRight(times, [int(r) for r in reached])
    assert curve.times[1:].tolist() == expected.surv_times.tolist()
    assert curve.shares[1:] == pytest.approx(expected.surv_prob)


def test_arm_that_never_reaches_is_a_flat_curve() -> None:
    curve = survival.kaplan_meier([100, 100], [False, False])
    assert (curve.times.tolist(), curve.shares.tolist()) == ([0], [1])


@pytest.mark.parametrize(
    ("times", "median"),
    [
        ([10, 20, 30], 20),
        ([30, 10, inf], 30),
        ([10, 20, 30, 40], 20),
        ([10, 20, inf, inf], 20),
        ([10, inf, inf], None),
        ([inf], None),
        ([], None),
    ],
    ids=str,
)
def test_median_is_the_first_time_by_which_half_of_the_runs_got_there(times: list[float], median: float | None) -> None:
    assert survival.median_time(times) == median


@given(times=TIMES)
@quick
def test_median_is_where_the_survival_curve_comes_down_to_a_half(times: list[float]) -> None:
    """By SciPy's estimate of the curve, with runs that never get there censored at the budget."""
    reached = np.isfinite(times)
    censored = stats.CensoredData(uncensored=np.array(times)[reached], right=np.full((~reached).sum(), 50.0))
    curve = stats.ecdf(censored).sf
    low = curve.quantiles[(curve.probabilities <= 0.5 + 1e-12) & (curve.quantiles < 50)]
    assert survival.median_time(times) == (low[0] if len(low) else None)


def test_restricted_mean_by_hand_and_from_the_curve() -> None:
    """(10 + 30 + 100 + 100) / 4, which is the area below Kaplan and Meier's curve."""
    times = np.array([10, 30, inf, 200])
    mean = survival.rmst(times, 100)
    assert (mean.value, mean.n) == (60, 4)
    reached = times <= 100
    curve = survival.kaplan_meier(np.minimum(times, 100), reached)
    assert (np.diff([*curve.times, 100]) * curve.shares).sum() == pytest.approx(60)


def test_restricted_mean_refuses_what_hides_a_run() -> None:
    with pytest.raises(ValueError, match="NaN"):
        survival.rmst([10, nan], 100)
    with pytest.raises(ValueError, match="budget"):
        survival.rmst([10], inf)


@given(times=TIMES, factor=st.sampled_from([0.5, 3.0]), seed=st.integers(0, 5))
@quick
def test_restricted_mean_scales_and_ignores_order(times: list[float], factor: float, seed: int) -> None:
    mean = survival.rmst(times, 35)
    scaled = survival.rmst([factor * time for time in times], factor * 35)
    shuffled = survival.rmst(np.random.default_rng(seed).permutation(times), 35)
    assert scaled.value == pytest.approx(factor * mean.value)
    assert shuffled.value == pytest.approx(mean.value)
    if mean.interval is not None:
        assert mean.interval.low <= mean.value <= mean.interval.high
        assert scaled.interval is not None
        assert (scaled.interval.low, scaled.interval.high) == pytest.approx(
            (factor * mean.interval.low, factor * mean.interval.high)
        )


@given(times=TIMES, later=st.sampled_from([5.0, inf]))
@quick
def test_restricted_mean_grows_with_a_later_time(times: list[float], later: float) -> None:
    assert survival.rmst([times[0] + later, *times[1:]], 35).value >= survival.rmst(times, 35).value


@pytest.mark.parametrize("times", [[10.0], [inf, inf, inf], [20.0, 20.0]], ids=str)
def test_no_interval_where_runs_do_not_differ(times: list[float]) -> None:
    assert survival.rmst(times, 100).interval is None


def test_interval_of_a_restricted_mean_stays_within_the_budget() -> None:
    """Three runs leave more open than there is room for; that the mean lies in the budget is known."""
    assert survival.rmst([10, inf, inf], 100).interval == Interval(0, 100)
    assert survival.rmst_difference([60, inf, inf], [1, 1, 90], 100).interval == Interval(-100, 100)
    inside = np.array([40.0, 50, 60, 45])
    assert survival.rmst(inside, 100).interval == intervals.mean_estimate(inside).interval


def test_interval_of_a_mean_by_hand() -> None:
    """0, 0, 3: the standard error is 1, the unbiased third cumulant of the values 9 and so of their mean 1."""
    quantile = stats.t.ppf(0.975, 2)

    def hall(t: float) -> float:
        return float(t + t**2 / 3 + t**3 / 27 + 1 / 6)

    low, high = intervals.mean_intervals(np.array([[0.0, 0, 3]]))
    assert 1 - low[0] == pytest.approx(quantile), "Student's end is the farther one"
    assert hall(1 - high[0]) == pytest.approx(-quantile)
    assert high[0] > 1 + quantile
    mirrored = intervals.mean_intervals(np.array([[0.0, 0, -3]]))
    assert (mirrored[0][0], mirrored[1][0]) == pytest.approx((-high[0], -low[0]))


@given(values=NUMBERS)
@quick
def test_interval_of_symmetric_values_is_students(values: list[float]) -> None:
    assume(len(set(values)) > 1)
    mirrored = np.array([*values, *(-value for value in values)])
    own = intervals.mean_estimate(mirrored).interval
    expected = stats.t.interval(0.95, len(mirrored) - 1, 0, stats.sem(mirrored))
    assert own is not None
    assert (own.low, own.high) == pytest.approx(expected)


@given(a=NUMBERS, b=NUMBERS)
@quick
def test_interval_of_a_difference_holds_welchs(a: list[float], b: list[float]) -> None:
    """It is Welch's where the skewness of the two arms cancels, and mirrors when the arms change places."""
    # scipy warns of lost precision where an arm is constant
    assume(len(set(a)) > 1 and len(set(b)) > 1)
    left, right = np.array(a), np.array(b)
    own, turned = (intervals.difference_estimate(*arms).interval for arms in ((left, right), (right, left)))
    welch = stats.ttest_ind(left, right, equal_var=False).confidence_interval()
    assert own is not None
    assert turned is not None
    assert own.low <= welch.low + 1e-9
    assert own.high >= welch.high - 1e-9
    assert (-turned.high, -turned.low) == pytest.approx((own.low, own.high))
    same = intervals.difference_estimate(left, left + 1).interval
    expected = stats.ttest_ind(left, left + 1, equal_var=False).confidence_interval()
    assert same is not None
    assert (same.low, same.high) == pytest.approx((expected.low, expected.high))


def test_arms_in_one_go_get_the_interval_they_get_alone() -> None:
    values = np.random.default_rng(0).exponential(size=(7, 10))
    low, high = intervals.mean_intervals(values)
    for row, ends in zip(values, zip(low, high, strict=True), strict=True):
        assert intervals.mean_estimate(row).interval == Interval(*ends)


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"level=95"):
        intervals.mean_estimate(np.array([1.0, 2.0]), 95)


@given(a=TIMES, b=TIMES)
@quick
def test_logrank_is_that_of_statsmodels(a: list[float], b: list[float]) -> None:
    """Theirs is the chi-squared form of the same test."""
    assume(any(time <= 35 for time in a + b))
    times = np.minimum(a + b, 35)
    status = (np.array(a + b) <= 35).astype(int)
    with np.errstate(all="ignore"):
        expected = survdiff(times, status, np.repeat([0, 1], [len(a), len(b)]))[1] if len({*a, *b}) > 1 else nan
    p = survival.logrank(a, b, 35)
    assert p == pytest.approx(1.0 if isnan(expected) else expected, abs=1e-9)


def test_two_arms_that_never_reach_do_not_differ() -> None:
    assert survival.logrank([inf, inf], [inf] * 3, 100) == 1


# comparisons


def test_improvement_by_hand() -> None:
    """Of the six pairs a wins two, and one is a tie."""
    improvement = comparison.probability_of_improvement([1, 3], [2, 3, 0])
    assert improvement.probability == pytest.approx(2.5 / 6)
    assert (improvement.m, improvement.n) == (2, 3)


@given(a=TIMES, b=TIMES)
@quick
def test_improvement_counts_pairs_and_turns_round(a: list[float], b: list[float]) -> None:
    improvement, turned = comparison.probability_of_improvement(a, b), comparison.probability_of_improvement(b, a)
    wins = [Fraction(int(x < y)) + Fraction(int(x == y), 2) for x, y in product(a, b)]
    assert improvement.probability == pytest.approx(float(sum(wins) / len(wins)), abs=1e-12)
    assert turned.probability == pytest.approx(1 - improvement.probability)
    assert turned.p == pytest.approx(improvement.p)
    assert improvement.interval is not None
    assert turned.interval is not None
    assert improvement.interval.low <= improvement.probability <= improvement.interval.high
    assert (1 - turned.interval.high, 1 - turned.interval.low) == pytest.approx(
        (improvement.interval.low, improvement.interval.high), abs=1e-9
    )


@given(a=TIMES, b=TIMES)
@quick
def test_p_of_improvement_counts_all_deals_of_the_runs(a: list[float], b: list[float]) -> None:
    """By enumeration, ties and all: twice the smaller tail of U."""
    assume(comb(len(a) + len(b), len(a)) <= 2000)
    runs = np.array(a + b)
    wins = (runs[:, None] < runs).astype(float) + (runs[:, None] == runs) / 2

    def u(chosen: tuple[int, ...]) -> float:
        others = [index for index in range(len(runs)) if index not in chosen]
        return float(wins[np.ix_(chosen, others)].sum())

    dealt = np.array([u(chosen) for chosen in combinations(range(len(runs)), len(a))])
    observed = u(tuple(range(len(a))))
    expected = min(1, 2 * min((dealt <= observed).mean(), (dealt >= observed).mean()))
    assert comparison.probability_of_improvement(a, b).p == pytest.approx(expected, abs=1e-12)
    assert expected >= comparison.smallest_p(len(a), len(b)) - 1e-12


@pytest.mark.parametrize(("m", "n"), [(10, 10), (7, 13), (30, 30), (40, 35)])
def test_p_of_improvement_is_scipys(m: int, n: int) -> None:
    """Without ties scipy's exact one; beyond ``EXACT_RUNS`` its approximation with ties."""
    draw = np.random.default_rng(m)
    a, b = draw.normal(size=m), draw.normal(size=n) + 0.7
    method = "exact" if m + n <= comparison.EXACT_RUNS else "asymptotic"
    expected = stats.mannwhitneyu(a, b, method=method).pvalue
    assert comparison.probability_of_improvement(a, b).p == pytest.approx(expected, rel=1e-9)


def test_score_interval_solves_its_equation_and_keeps_a_width() -> None:
    separated = comparison.probability_of_improvement(range(5), range(10, 15)).interval
    assert separated is not None
    assert (separated.high, separated.low) == (1, pytest.approx(0.655, abs=0.03))
    low, high = intervals.newcombe([0.7], 20, 15)
    for theta in (low[0], high[0]):
        pairs = 1 + (17.5 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        distance = 1.959964 * np.sqrt(theta * (1 - theta) * pairs / 300)
        assert abs(0.7 - theta) == pytest.approx(distance, abs=1e-5)


@pytest.mark.parametrize(("shift", "n"), [(0.0, 10), (1.0, 10), (2.0, 30)])
def test_score_interval_covers_near_its_level(shift: float, n: int) -> None:
    draw, truth = np.random.default_rng(3), stats.norm.cdf(shift / np.sqrt(2))
    a, b = draw.normal(size=(3000, n, 1)), draw.normal(size=(3000, 1, n)) + shift
    low, high = intervals.newcombe((a < b).mean(axis=(1, 2)), n, n)
    coverage = ((low <= truth) & (truth <= high)).mean()
    assert coverage == pytest.approx(0.95, abs=0.025 + 4 * np.sqrt(0.95 * 0.05 / 3000))


@pytest.mark.parametrize(("n", "p"), [(3, 0.10), (4, 0.0286), (5, 0.0079), (6, 0.00216), (10, 1.1e-5)])
def test_smallest_p_is_that_of_full_separation(n: int, p: float) -> None:
    assert comparison.smallest_p(n, n) == pytest.approx(p, rel=0.02)
    assert comparison.probability_of_improvement(range(n), range(n, 2 * n)).p == pytest.approx(
        comparison.smallest_p(n, n)
    )


def test_three_runs_never_show_anything_and_twenty_comparisons_need_six() -> None:
    assert not comparison.can_be_significant(3, 3)
    assert comparison.can_be_significant(4, 4)
    assert [comparison.can_be_significant(n, n, comparisons=20) for n in (4, 5, 6)] == [False, False, True]
    assert comparison.smallest_p(0, 9) == 1


@given(n=st.integers(1, 12), data=st.data())
@quick
def test_smallest_p_of_pairs_is_attained_and_never_beaten(n: int, data: st.DataObject) -> None:
    differences = data.draw(st.lists(st.integers(-9, 9), min_size=n, max_size=n))
    assert comparison.paired(np.arange(1, n + 1)).p == pytest.approx(comparison.smallest_p_paired(n))
    assert comparison.paired(differences).p >= comparison.smallest_p_paired(n)


def test_five_pairs_never_show_anything() -> None:
    assert [comparison.can_be_significant_paired(n) for n in (5, 6)] == [False, True]


def test_paired_by_hand() -> None:
    """1, 2, 4: of the eight patterns of signs only the seen one and its mirror are as far from 0; with -1 four are."""
    assert comparison.paired([1, 2, 4]).p == 2 / 8
    assert comparison.paired([-1, 2, 4]).p == 4 / 8
    assert comparison.paired([0, 0]).p == 1
    assert comparison.paired([1, 2, 6]).mean == 3
    assert comparison.paired([2, 2]).interval is None


@given(differences=NUMBERS)
@quick
def test_paired_p_is_scipys(differences: list[float]) -> None:
    with np.errstate(all="ignore"):
        theirs = stats.permutation_test(
            (np.array(differences),), np.sum, permutation_type="samples", vectorized=False, n_resamples=5000
        ).pvalue
    assert comparison.paired(differences).p == pytest.approx(theirs, abs=1e-9)
    assert comparison.paired([-value for value in differences]).p == pytest.approx(theirs, abs=1e-9)


def test_random_sign_flips_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(0).normal(size=16) + 0.4
    exact = comparison.paired(differences).p
    monkeypatch.setattr(comparison, "EXACT_DIFFERENCES", 10)
    drawn = comparison.paired(differences)
    assert drawn.p == pytest.approx(exact, abs=5 * np.sqrt(exact / comparison.SIGN_FLIPS))
    assert drawn == comparison.paired(differences)
    assert comparison.paired(np.arange(1, 60)).p == comparison.smallest_p_paired(59), "never 0"


def test_paired_refuses_times_without_end() -> None:
    with pytest.raises(ValueError, match="budget"):
        comparison.paired([1, inf])


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=12))
@quick
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert comparison.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_by_hand() -> None:
    """In order 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1, and never smaller than the one before."""
    assert comparison.holm([0.04, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert comparison.holm([0.01, nan, 0.5]).tolist() == pytest.approx([0.02, nan, 0.5], nan_ok=True)
    assert comparison.holm([0.001, 0.01], family=10).tolist() == pytest.approx([0.01, 0.09])
    assert comparison.holm([]).tolist() == []
    with pytest.raises(ValueError, match="family=1"):
        comparison.holm([0.1, 0.2], family=1)


@given(p_values=st.lists(st.floats(0, 1), min_size=2, max_size=6), chosen=st.integers(1, 5))
@quick
def test_holm_of_some_chosen_comparisons_is_at_least_that_of_all(p_values: list[float], chosen: int) -> None:
    """So the choice may depend on the data."""
    some = p_values[:chosen]
    assert (comparison.holm(some, family=len(p_values)) >= comparison.holm(p_values)[:chosen] - 1e-12).all()


def test_performance_profile_by_hand() -> None:
    """Three tasks: the first arm is best in one, fails one and did not run the third."""
    scores = [[10, inf, nan], [20, 30, inf]]
    profile = comparison.performance_profile(scores, [1, 2])
    assert profile.tolist() == pytest.approx(np.array([[1 / 2, 1 / 2], [1 / 3, 2 / 3]]))


@given(scores=st.lists(st.lists(st.sampled_from([0.0, 1, 2, 5, inf, nan]), min_size=3, max_size=3), min_size=1))
@quick
def test_performance_profile_rises_to_the_success_share(scores: list[list[float]]) -> None:
    shares = comparison.performance_profile(scores, [1, 2, 4, 1e9])
    assert (np.diff(shares, axis=1) >= 0).all()
    for row, share in zip(np.array(scores), shares[:, -1], strict=True):
        run = row[~np.isnan(row)]
        # a best of 0 leaves no factor to the others
        assert share <= (np.isfinite(run).mean() if len(run) else 0) + 1e-12
