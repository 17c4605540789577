"""Scores that say how sure one can be: intervals, paired tests, calibration, words in a stream, tags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.special
import scipy.stats
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from kws.infra.files import CourseError, check_number


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of `right` in `n` independent clips. Source: Wilson's, by scipy.

    >>> [round(end, 3) for end in wilson(90, 100)]
    [0.826, 0.945]
    """
    if not 0 <= right <= n or not n:
        raise CourseError(f"{right} right ones of {n} clips: no share can be told of them")
    interval = scipy.stats.binomtest(int(right), int(n)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def score(labels: Sequence[int], predicted: Sequence[int]) -> dict[str, float]:
    """Accuracy with its 95 % interval (Wilson), macro precision, recall, F1, chance, of integer labels and predictions [n].

    Chance is to always say the most frequent label.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if len(labels) != len(predicted):
        raise CourseError(f"{len(labels)} labels and {len(predicted)} predictions: as many are wanted")
    low, high = wilson((labels == predicted).sum(), len(labels))
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, average="macro", labels=np.unique(labels), zero_division=0
    )
    return {
        "accuracy": accuracy_score(labels, predicted),
        "low": low,
        "high": high,
        "n": len(labels),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "chance": np.bincount(labels).max() / len(labels),
    }


def mcnemar(labels: Sequence[int], first: Sequence[int], second: Sequence[int]) -> dict[str, float]:
    """Two models on the same clips, by their integer predictions [n]: does one get more of them right?

    Only the clips that one of them alone gets right can decide it. If the models were equally good, each of these would go to
    either with a probability of a half. Returns `only_first`, `only_second` (clips), `difference` of the accuracies, first minus
    second, and `p`, two-sided. Source: McNemar's exact test.

    >>> mcnemar([0] * 10, [0] * 10, [0] * 4 + [1] * 6)["p"]
    0.03125
    """
    labels, first, second = map(np.asarray, (labels, first, second))
    if not len(labels) == len(first) == len(second):
        raise CourseError(
            f"{len(labels)} labels, {len(first)} and {len(second)} predictions: as many are wanted"
        )
    only_first = int(((first == labels) & (second != labels)).sum())
    only_second = int(((second == labels) & (first != labels)).sum())
    apart = only_first + only_second
    return {
        "only_first": only_first,
        "only_second": only_second,
        "difference": (only_first - only_second) / len(labels),
        "p": float(scipy.stats.binomtest(only_first, apart).pvalue) if apart else 1.0,
    }


def bootstrap_difference(
    labels: Sequence[int],
    first: Sequence[int],
    second: Sequence[int],
    speakers: Sequence[str] | None = None,
    times: int = 2_000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of the difference of two accuracies on the same clips, first minus second, by a paired bootstrap.

    Clips are drawn with replacement; with `speakers` [n], whole speakers are, since clips of one are not independent. A clip
    without a speaker, "", is drawn by itself.
    """
    labels, first, second = map(np.asarray, (labels, first, second))
    gains = (first == labels).astype(int) - (second == labels)
    alone = np.arange(len(labels))
    who = alone if speakers is None else [str(name) or f"clip {at}" for at, name in zip(alone, speakers)]
    _, group = np.unique(who, return_inverse=True)
    gain, size = np.bincount(group, gains), np.bincount(group)
    drawn = np.random.default_rng(seed).integers(0, len(size), (times, len(size)))
    low, high = np.percentile(gain[drawn].sum(1) / size[drawn].sum(1), [2.5, 97.5])
    return float(low), float(high)


def poisson_interval(count: int, hours: float = 1.0) -> tuple[float, float]:
    """95 % interval of a rate per hour, of `count` events in `hours`. Source: Garwood's exact interval.

    >>> [round(end, 1) for end in poisson_interval(13, hours=80 / 60)]
    [5.2, 16.7]
    """
    check_number("count", count, 0)
    check_number("hours", hours, 1e-9)
    low = scipy.stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low / hours), float(scipy.stats.chi2.ppf(0.975, 2 * count + 2) / 2 / hours)


def mean_of_seeds(rows: pd.DataFrame, by: str | list[str]) -> pd.DataFrame:
    """Mean accuracy of each group of rows, the 95 % interval (Wilson) of that mean on `n` clips, and the seeds' spread.

    The spread of one seed is NaN.
    """
    table = rows.groupby(by, sort=False).agg(
        accuracy=("accuracy", "mean"),
        n=("n", "first"),
        seeds=("seed", "nunique"),
        spread=("accuracy", np.ptp),
    )
    table["spread"] = table.spread.where(table.seeds > 1)
    table["low"], table["high"] = zip(*(wilson(round(r.accuracy * r.n), r.n) for r in table.itertuples()))
    return table


# calibration


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities [n, labels] at another temperature: softmax(log p / temperature). Source: Guo et al., arXiv:1706.04599."""
    if not 0 < temperature < np.inf:
        raise CourseError(f"temperature={temperature}: more than 0 is wanted")
    logits = np.log(np.maximum(probabilities, 1e-12)) / temperature
    return np.exp(logits - scipy.special.logsumexp(logits, axis=1, keepdims=True))


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which probabilities [n, labels] make label numbers [n] most likely."""

    def loss(temperature):
        likely = apply_temperature(probabilities, temperature)[np.arange(len(labels)), labels]
        return -np.log(likely + 1e-12).mean()

    return scipy.optimize.minimize_scalar(loss, bounds=(0.05, 5), method="bounded").x


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Clips grouped by their largest probability: DataFrame of mean probability, accuracy and clips of each group."""
    check_number("bins", bins, 1)
    check_number("clips", len(probabilities), 1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    group = np.minimum((confidence * bins).astype(int), bins - 1)
    table = pd.DataFrame({"probability": confidence, "accuracy": right, "clips": 1}).groupby(group)
    return table.agg({"probability": "mean", "accuracy": "mean", "clips": "sum"})


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error: how far probability and accuracy are apart, on average over the clips."""
    table = reliability(probabilities, labels)
    return np.average((table.probability - table.accuracy).abs(), weights=table.clips)


def expected_accuracy(
    parts: dict[str, float], silence: float = 0.09, unknown: float = 0.53, new: float = 0.5
) -> float:
    """Accuracy on a board with these shares of silence and unknown, `new` of the latter words never heard.

    `parts` are the accuracies on commands, silence, unknown (words heard) and new (words never heard).
    """
    words = (1 - new) * parts["unknown"] + new * parts["new"]
    return (1 - silence - unknown) * parts["commands"] + silence * parts["silence"] + unknown * words


# words in a long recording


def streaming_accuracy(
    truth: Sequence[tuple[float, str]], found: Sequence[tuple[float, str]], tolerance_ms: float = 750
) -> dict[str, int]:
    """How words found fit the true ones, both lists of (milliseconds, word): counts true, matched, correct, wrong, false alarms.

    Source: accuracy_utils of TensorFlow's audio tutorial.

    >>> streaming_accuracy([(1_000, "yes"), (5_000, "no")], [(1_500, "yes"), (5_100, "up"), (9_000, "no")])
    {'true': 2, 'matched': 2, 'correct': 1, 'wrong': 1, 'false alarms': 1}
    """
    left = list(truth)
    counts = {"true": len(truth), "matched": 0, "correct": 0, "wrong": 0, "false alarms": 0}
    for ms, word in found:
        near = [pair for pair in left if abs(pair[0] - ms) <= tolerance_ms]
        if not near:
            counts["false alarms"] += 1
            continue
        nearest = min(near, key=lambda pair: abs(pair[0] - ms))
        left.remove(nearest)
        counts["matched"] += 1
        counts["correct" if nearest[1] == word else "wrong"] += 1
    return counts


# several labels for a clip


def label_precisions(truth: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """Precision at each label of each clip, from labels (zeros and ones) and scores [n, classes].

    DataFrame with a row for each label: clip and label (numbers), precision. Classes with equal scores share the last rank.
    """
    truth, scores = np.asarray(truth) > 0, np.asarray(scores)
    if not np.isfinite(scores).all():
        raise CourseError("scores: some are not numbers. Train the model again, at a lower rate")
    clip, label = np.nonzero(truth)
    above = scores[clip] >= scores[clip, label][:, None]
    precision = (above & truth[clip]).sum(1) / above.sum(1)
    return pd.DataFrame({"clip": clip, "label": label, "precision": precision})


def lwlrap(truth: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Label-weighted label-ranking average precision, of all [a number] and of each class [classes; NaN without clips].

    Source: the metric of DCASE 2019 task 2.

    >>> round(float(lwlrap([[1, 0, 0], [0, 1, 1]], [[0.9, 0.5, 0.1], [0.8, 0.9, 0.1]])[0]), 3)
    0.889
    """
    table = label_precisions(truth, scores)
    of_class = table.groupby("label").precision.mean().reindex(range(np.shape(truth)[1]))
    return table.precision.mean(), of_class.to_numpy()
