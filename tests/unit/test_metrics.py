"""Scores: intervals, paired tests, means of seeds, calibration, words in a stream, several labels."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.metrics import label_ranking_average_precision_score, precision_score, recall_score

from kws.infra.files import CourseError
from kws.metrics import (
    apply_temperature,
    bootstrap_difference,
    calibration_error,
    expected_accuracy,
    fit_temperature,
    label_precisions,
    lwlrap,
    mcnemar,
    mean_of_seeds,
    poisson_interval,
    reliability,
    score,
    streaming_accuracy,
    wilson,
)


def test_score():
    labels = np.array([2] * 60 + [3] * 40)
    result = score(labels, np.full(100, 2))
    assert result["accuracy"] == result["chance"] == 0.6 and result["n"] == 100
    assert (result["low"], result["high"]) == pytest.approx((0.502, 0.691), abs=0.001)
    assert result["f1"] == pytest.approx(0.375)
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    result = score(labels, predicted)
    assert result["precision"] == pytest.approx(precision_score(labels, predicted, average="macro"))
    assert result["recall"] == pytest.approx(recall_score(labels, predicted, average="macro"))


def test_interval_of_all_and_of_none():
    assert wilson(10, 10)[1] == 1 and wilson(0, 10)[0] == 0
    assert wilson(10, 10)[0] == pytest.approx(1 - wilson(0, 10)[1]) and 0.6 < wilson(10, 10)[0] < 0.8


@pytest.mark.parametrize(
    "none",
    [
        lambda: wilson(0, 0),
        lambda: wilson(11, 10),
        lambda: score([], []),
        lambda: score([1, 2], [1]),
        lambda: apply_temperature(np.ones((1, 2)), 0.0),
        lambda: apply_temperature(np.ones((1, 2)), np.nan),
        lambda: reliability(np.ones((0, 2)), np.ones(0)),
        lambda: label_precisions([[1, 0]], [[np.nan, 1]]),
    ],
)
def test_what_has_no_score_is_told(none):
    with pytest.raises(CourseError):
        none()


def test_mean_of_seeds():
    rows = pd.DataFrame(
        {"variant": ["b", "a", "b"], "accuracy": [0.5, 0.9, 0.7], "n": [100, 50, 100], "seed": [0, 0, 1]}
    )
    table = mean_of_seeds(rows, "variant")
    assert list(table.index) == ["b", "a"], "in the order of the rows"
    mean = table.loc["b"]
    assert mean.accuracy == pytest.approx(0.6) and mean.seeds == 2 and mean.spread == pytest.approx(0.2)
    assert np.isnan(table.spread["a"]), "one seed has no spread"
    assert (mean.low, mean.high) == tuple(scipy.stats.binomtest(60, 100).proportion_ci(method="wilson"))


def test_temperature_mends_what_is_too_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4_000, 5))
    labels = np.array([rng.choice(5, p=p) for p in apply_temperature(np.exp(logits), 1.0)])
    overconfident = apply_temperature(np.exp(logits), 0.25)
    temperature = fit_temperature(overconfident, labels)
    assert temperature == pytest.approx(4, rel=0.1)
    mended = apply_temperature(overconfident, temperature)
    assert calibration_error(mended, labels) < 0.03 < 0.2 < calibration_error(overconfident, labels)
    assert np.array_equal(mended.argmax(1), overconfident.argmax(1)) and np.allclose(mended.sum(1), 1)
    assert reliability(mended, labels).clips.sum() == 4_000


def test_expected_accuracy():
    parts = {"commands": 0.9, "silence": 0.8, "unknown": 0.7, "new": 0.5}
    assert expected_accuracy(parts, silence=0.1, unknown=0.4, new=0.25) == pytest.approx(
        0.45 + 0.08 + 0.4 * 0.65
    )


def test_streaming_accuracy():
    truth = [(1_000, "yes"), (4_000, "no"), (8_000, "go")]
    found = [(1_200, "yes"), (1_300, "yes"), (4_700, "up"), (6_000, "no")]
    counts = {"true": 3, "matched": 2, "correct": 1, "wrong": 1, "false alarms": 2}
    assert streaming_accuracy(truth, found) == counts
    assert streaming_accuracy([], []) == dict.fromkeys(counts, 0)


def test_lwlrap_by_hand():
    truth, scores = [[1, 0, 1, 0], [0, 1, 0, 0]], [[0.9, 0.5, 0.4, 0.1], [0.9, 0.5, 0.4, 0.1]]
    assert label_precisions(truth, scores).precision.tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    overall, own = lwlrap(truth, scores)
    assert overall == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert own[:3] == pytest.approx([1, 1 / 2, 2 / 3]) and np.isnan(own[3])


@pytest.mark.parametrize("levels", [1_000_000, 4])  # with four levels many scores are equal
def test_lwlrap_is_scikit_learns(levels):
    rng = np.random.default_rng(levels)
    truth, scores = rng.random((200, 17)) < 0.15, rng.integers(0, levels, (200, 17)) / levels
    truth[np.arange(200), rng.integers(0, 17, 200)] = True
    overall, own = lwlrap(truth, scores)
    theirs = label_ranking_average_precision_score(truth, scores, sample_weight=truth.sum(1))
    assert overall == pytest.approx(theirs)
    assert overall == pytest.approx(np.average(own, weights=truth.sum(0)))
    for label in range(3):  # a class by itself: only its clips count, and of these only its label
        precisions = []
        for clip in np.flatnonzero(truth[:, label]):
            above = scores[clip] >= scores[clip, label]
            precisions.append(truth[clip][above].mean())
        assert own[label] == pytest.approx(np.mean(precisions))


def test_paired_models_are_compared_on_the_clips_that_one_of_them_alone_gets_right():
    labels = np.zeros(698, int)
    first, second = labels.copy(), labels.copy()
    first[:18], second[18:24], first[30:60], second[30:60] = 1, 1, 1, 1  # and thirty that both get wrong
    found = mcnemar(labels, second, first)
    assert (found["only_first"], found["only_second"]) == (18, 6)
    assert found["difference"] == pytest.approx(12 / 698) and found["p"] == pytest.approx(0.0227, abs=1e-4)
    assert mcnemar(labels, first, second)["p"] == found["p"] and mcnemar(labels, first, first)["p"] == 1
    with pytest.raises(CourseError, match="2 labels, 2 and 1 predictions"):
        mcnemar([0, 1], [0, 1], [0])


def test_bootstrap_of_a_difference_is_wider_where_speakers_differ():
    rng = np.random.default_rng(0)
    labels, speakers = np.zeros(1_000, int), np.repeat(np.arange(20), 50)
    worse = rng.random(1_000) < 0.3
    low, high = bootstrap_difference(labels, labels, worse.astype(int))
    assert low < worse.mean() < high and high - low == pytest.approx(4 * (0.3 * 0.7 / 1_000) ** 0.5, rel=0.1)
    by_speaker = (speakers % 4 == 0).astype(int)  # a quarter of the speakers is never understood
    clips = bootstrap_difference(labels, labels, by_speaker)
    people = bootstrap_difference(labels, labels, by_speaker, speakers)
    assert people[1] - people[0] > 4 * (clips[1] - clips[0])


def test_clips_without_a_speaker_are_drawn_one_by_one():
    rng = np.random.default_rng(0)
    labels, worse = np.zeros(400, int), (rng.random(400) < 0.3).astype(int)
    nobody = np.repeat(["", "anna", "ben"], [398, 1, 1])
    low, high = bootstrap_difference(labels, labels, worse, nobody)
    assert high - low == pytest.approx(4 * (0.3 * 0.7 / 400) ** 0.5, rel=0.1)


def test_interval_of_a_rate():
    assert poisson_interval(16, 40 / 60) == pytest.approx((13.7, 39.0), abs=0.1)
    assert poisson_interval(0) == pytest.approx((0, 3.689), abs=0.001)  # the rule of three, two-sided
    for count, hours in ((-1, 1), (1, 0)):
        with pytest.raises(CourseError):
            poisson_interval(count, hours)
