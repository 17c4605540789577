"""Notebook 6: predicting a folder, writing, checking and scoring the CSV."""

import shutil

import keras
import numpy as np
import pandas as pd
import pytest

from kws.split import CLIP_SAMPLES, LABELS, CorpusError
from kws.submission import check_submission, predict_clips, score_submission, test_clips, write_submission

test_clips.__test__ = False  # a function of the course, not a test


@pytest.fixture(scope="module")
def model():
    """Says something else for each clip, without any training."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((CLIP_SAMPLES,)),
            keras.layers.Rescaling(30),
            keras.layers.Dense(12, activation="softmax"),
        ]
    )


def test_order_is_that_of_the_sample(corpus, tmp_path):
    names = pd.read_csv(corpus / "sample_submission.csv").fname
    assert [p.name for p in test_clips(corpus)] == list(names)
    shutil.copytree(corpus / "test", tmp_path / "test")
    assert [p.name for p in test_clips(tmp_path)] == sorted(names)
    with pytest.raises(CorpusError, match="no clips to predict"):
        test_clips(tmp_path / "test")


def test_predict_write_check(corpus, model, tmp_path):
    paths = test_clips(corpus)
    probabilities, unreadable = predict_clips(model, paths, tmp_path / "probs.npy", batch_size=32)
    assert not unreadable and probabilities.shape == (len(paths), len(LABELS))
    submission = write_submission(paths, probabilities, tmp_path / "submission.csv")
    check_submission(tmp_path / "submission.csv", paths)
    assert submission.label.nunique() > 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["probs.json", "probs.npy", "submission.csv"]


def test_bad_clips_get_silence_and_are_listed(corpus, model, tmp_path):
    good = test_clips(corpus)[:5]
    (tmp_path / "bad.wav").write_text("bad")
    probabilities, unreadable = predict_clips(
        model, [*good, tmp_path / "bad.wav", tmp_path / "gone.wav"], tmp_path / "p.npy"
    )
    assert unreadable == [str(tmp_path / "bad.wav"), str(tmp_path / "gone.wav")]
    assert probabilities[5:].argmax(1).tolist() == [LABELS.index("silence")] * 2


def test_interrupted_prediction_goes_on(corpus, model, tmp_path):
    paths, seen = test_clips(corpus), []

    class Interrupted:
        output_shape = model.output_shape

        def predict_on_batch(self, clips):
            seen.append(len(clips))
            if len(seen) == 2:
                raise KeyboardInterrupt
            return model.predict_on_batch(clips)

    with pytest.raises(KeyboardInterrupt):
        predict_clips(Interrupted(), paths, tmp_path / "p.npy", "v1", batch_size=20)
    resumed, _ = predict_clips(Interrupted(), paths, tmp_path / "p.npy", "v1", batch_size=20)
    assert sum(seen[2:]) == len(paths) - 20
    whole, _ = predict_clips(model, paths, tmp_path / "q.npy", "v1", batch_size=20)
    np.testing.assert_allclose(resumed, whole, atol=1e-6)
    assert np.array_equal(predict_clips(None, paths, tmp_path / "p.npy", "v1")[0], resumed), (
        "predicted a second time"
    )
    again, _ = predict_clips(model, paths[:20], tmp_path / "p.npy", "v1")
    assert len(again) == 20


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: lines[1:], "line 1: must be the header"),
        (
            lambda lines: [*lines[:3], lines[3].split(",")[0] + ",maybe", *lines[4:]],
            "line 4: maybe is none of the labels",
        ),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "line 2: .* is expected"),
        (lambda lines: lines[:-1], "29 clips where 30 are expected"),
        (lambda lines: [*lines, lines[-1]], "31 clips where 30 are expected"),
        (lambda lines: [], "line 1"),
    ],
)
def test_the_check_names_the_first_wrong_line(corpus, tmp_path, spoil, message):
    paths = test_clips(corpus)[:30]
    write_submission(paths, np.eye(12)[np.arange(30) % 12], tmp_path / "s.csv")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    (tmp_path / "s.csv").write_text("\n".join(spoil(lines)) + "\n")
    with pytest.raises(CorpusError, match=message):
        check_submission(tmp_path / "s.csv", paths)


def test_score(corpus, tmp_path):
    solution = pd.read_csv(corpus / "solution.csv")
    solution.assign(label=solution.label.where(solution.index >= 10, "right"))[["fname", "label"]].to_csv(
        tmp_path / "s.csv", index=False
    )
    board = score_submission(tmp_path / "s.csv", corpus / "solution.csv")
    wrong = (solution.label[:10] != "right").sum()
    assert board.accuracy["all"] == pytest.approx(1 - wrong / len(solution))
    assert board.n["Public"] + board.n["Private"] == len(solution)
