"""Notebook 6: predicting a folder, looking twice, writing, checking, sending and scoring the CSV."""

import shutil
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from kws.deploy import freeze, to_litert, write_frozen
from kws.models import ZOO, with_front_end
from kws.preprocess import open_store
from kws.split import CLIP_SAMPLES, LABELS, CourseError
from kws.submission import (
    TTA_VIEWS,
    tta,
    check_submission,
    ensemble,
    words_to_labels,
    leaderboard,
    load_predictor,
    predict_clips,
    score_submission,
    send_submission,
    test_clips,
    write_submission,
)

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
    with pytest.raises(CourseError, match="no clips to predict"):
        test_clips(tmp_path / "test")


def test_predict_write_check(corpus, model, tmp_path):
    paths = test_clips(corpus)
    probabilities, unreadable = predict_clips(
        model.predict_on_batch, paths, tmp_path / "probs.npy", batch_size=32
    )
    assert not unreadable and probabilities.shape == (len(paths), len(LABELS))
    submission = write_submission(paths, probabilities, tmp_path / "submission.csv")
    check_submission(tmp_path / "submission.csv", paths)
    assert submission.label.nunique() > 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["probs.json", "probs.npy", "submission.csv"]


def test_bad_clips_get_silence_and_are_listed(corpus, model, tmp_path):
    good = test_clips(corpus)[:5]
    (tmp_path / "bad.wav").write_text("bad")
    paths = [*good, tmp_path / "bad.wav", tmp_path / "gone.wav"]
    for label in (0, 1, 0):
        probabilities, unreadable = predict_clips(
            model.predict_on_batch, paths, tmp_path / "p.npy", bad=label
        )
        assert unreadable == [str(tmp_path / "bad.wav"), str(tmp_path / "gone.wav")]
        assert probabilities[5:].argmax(1).tolist() == [label] * 2
    shutil.copy(good[0], tmp_path / "bad.wav")  # mended: what was predicted of it no longer holds
    assert predict_clips(model.predict_on_batch, paths, tmp_path / "p.npy")[1] == [str(tmp_path / "gone.wav")]


def test_interrupted_prediction_goes_on(corpus, model, tmp_path):
    paths, seen = test_clips(corpus), []

    def interrupted(clips):
        seen.append(len(clips))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return model.predict_on_batch(clips)

    sizes = {"batch_size": 20, "part": 20}
    with pytest.raises(KeyboardInterrupt):
        predict_clips(interrupted, paths, tmp_path / "p.npy", "v1", **sizes)
    resumed, _ = predict_clips(interrupted, paths, tmp_path / "p.npy", "v1", **sizes)
    assert sum(seen[2:]) == len(paths) - 20
    whole, _ = predict_clips(model.predict_on_batch, paths, tmp_path / "q.npy", "v1", batch_size=20)
    np.testing.assert_allclose(resumed, whole, atol=1e-6)
    read_back, _ = predict_clips(None, paths, tmp_path / "p.npy", "v1")
    assert np.array_equal(read_back, resumed), "predicted a second time"
    again, _ = predict_clips(model.predict_on_batch, paths[:20], tmp_path / "p.npy", "v1")
    assert len(again) == 20


def test_the_same_bytes_every_time(corpus, model, tmp_path):
    paths = test_clips(corpus)
    for name in ("a", "b"):
        probabilities, _ = predict_clips(model.predict_on_batch, paths, tmp_path / f"{name}.npy")
        write_submission(paths, probabilities, tmp_path / f"{name}.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_the_same_labels_from_each_form_of_a_model(work, manifest, clips, tmp_path):
    statistics = open_store(work, "log_mel", manifest).attrs["statistics"]
    keras.utils.set_random_seed(1)
    model = with_front_end(ZOO["tc_resnet8"].build(), "log_mel", statistics)
    model.save(tmp_path / "model.keras")
    write_frozen(model, tmp_path / "frozen.pb")
    (tmp_path / "model.tflite").write_bytes(to_litert(freeze(model)))
    expected = model.predict(clips, verbose=0)
    for path in tmp_path.iterdir():
        np.testing.assert_allclose(load_predictor(path)(clips), expected, atol=1e-4)
    for name, message in (
        ("gone.keras", "there is no such model"),
        ("model.h5", "is a .keras, .pb or .tflite"),
    ):
        (tmp_path / "model.h5").write_text("x")
        with pytest.raises(CourseError, match=message):
            load_predictor(tmp_path / name)


def test_looks(clips, model):
    plain = model.predict_on_batch(clips)
    assert np.allclose(tta(model.predict_on_batch, ["plain"])(clips), plain)
    both = tta(model.predict_on_batch, ["plain", "louder"])(clips)
    assert np.allclose(2 * both - plain, model.predict_on_batch(TTA_VIEWS["louder"](clips)), atol=1e-6)
    click = np.zeros((1, CLIP_SAMPLES), "float32")
    click[0, 8_000] = 1
    assert TTA_VIEWS["shifted left"](click).argmax() == 6_500
    assert all(look(clips[:3]).shape == (3, CLIP_SAMPLES) for look in TTA_VIEWS.values())


def test_combined():
    three = np.array([[[0.6, 0.4]], [[0.6, 0.4]], [[0.01, 0.99]]])
    assert ensemble(three).argmax() == 1 and ensemble(three, "vote").argmax() == 0
    assert ensemble(three, "geometric mean").argmax() == 1
    assert all(np.allclose(ensemble(three, how).sum(1), 1) for how in ("mean", "geometric mean", "vote"))


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
        (lambda lines: [*lines[:5], lines[2], *lines[6:]], "line 6: .* stands in line 3 already"),
    ],
)
def test_the_check_names_the_first_wrong_line(corpus, tmp_path, spoil, message):
    paths = test_clips(corpus)[:30]
    write_submission(paths, np.eye(12)[np.arange(30) % 12], tmp_path / "s.csv")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    (tmp_path / "s.csv").write_text("\n".join(spoil(lines)) + "\n")
    with pytest.raises(CourseError, match=message):
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


def terminal(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "kws.submission", *map(str, arguments)], capture_output=True, text=True
    )


def test_check_from_a_terminal(corpus, tmp_path):
    paths = test_clips(corpus)
    write_submission(paths, np.eye(12)[np.arange(len(paths)) % 12], tmp_path / "s.csv")
    done = terminal("check", tmp_path / "s.csv", corpus)
    assert done.returncode == 0 and f"right, {len(paths):,} clips" in done.stdout
    (tmp_path / "s.csv").write_text("fname;label\n")
    done = terminal("check", tmp_path / "s.csv", corpus)
    assert (
        done.returncode == 1
        and "line 1: must be the header" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert "there is no such file" in terminal("check", tmp_path / "gone.csv", corpus).stderr


def test_leaderboard(corpus, tmp_path):
    solution = pd.read_csv(corpus / "solution.csv")
    solution[["fname", "label"]].to_csv(tmp_path / "anna.csv", index=False)
    solution.assign(label="unknown")[["fname", "label"]].to_csv(tmp_path / "ben.csv", index=False)
    files = [tmp_path / "ben.csv", tmp_path / "anna.csv"]
    board = leaderboard(files, corpus / "solution.csv")
    assert list(board.index) == ["anna", "ben"] and board.private["anna"] == 1 > board.private["ben"]
    done = terminal("leaderboard", corpus / "solution.csv", *files)
    assert done.returncode == 0 and done.stdout.index("anna") < done.stdout.index("ben")
    assert "private" in done.stdout
    done = terminal("leaderboard", corpus / "solution.csv", *files, "--public")
    assert done.returncode == 0 and "public" in done.stdout and "private" not in done.stdout


def kaggle(folder, text):
    """A stand-in for Kaggle's command."""
    folder.mkdir()
    (folder / "kaggle").write_text(f"#!{sys.executable}\nimport sys\n{text}\n")
    (folder / "kaggle").chmod(0o755)
    return str(folder)


def test_send(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", kaggle(tmp_path / "good", "print('sent', *sys.argv[1:])"))
    said = send_submission(tmp_path / "s.csv", "my first")
    assert (
        said
        == f"sent competitions submit -c tensorflow-speech-recognition-challenge -f {tmp_path}/s.csv -m my first"
    )
    monkeypatch.setenv("PATH", kaggle(tmp_path / "bad", "sys.exit('401 - Unauthorized')"))
    with pytest.raises(CourseError, match="401 - Unauthorized. By hand: https://www.kaggle.com"):
        send_submission(tmp_path / "s.csv", "my first")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(CourseError, match="the command kaggle is missing: pip install kaggle"):
        send_submission(tmp_path / "s.csv", "my first")


def test_words_are_folded():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(32), 5)
    words = [*LABELS[2:], *(f"word{i}" for i in range(21)), "silence"]
    twelve = words_to_labels(probabilities, words)
    np.testing.assert_allclose(twelve[:, 2:], probabilities[:, :10], rtol=1e-6)
    np.testing.assert_allclose(twelve[:, 1], probabilities[:, 10:31].sum(1), rtol=1e-6)
    np.testing.assert_allclose(twelve[:, 0], probabilities[:, 31], rtol=1e-6)
