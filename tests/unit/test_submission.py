"""Notebook 6: looking twice, putting models together, writing, checking, sending and scoring the CSV."""

import sys

import numpy as np
import pandas as pd
import pytest
import scipy.special

from kws.audio import CLIP_SAMPLES
from kws.inference import predict_clips
from kws.inference import test_clips as clips_to_predict
from kws.infra.contest import send_submission, stand_ins, words_to_labels
from kws.infra.files import CourseError
from kws.split import LABELS
from kws.submission import (
    TTA_VIEWS,
    check_submission,
    ensemble,
    leaderboard,
    score_submission,
    tta,
    write_submission,
)


def say(clips):
    """Something else for each clip, without any model: probabilities [n, 12]."""
    sums = 30 * np.asarray(clips) @ np.random.default_rng(0).normal(0, 0.01, (CLIP_SAMPLES, 12))
    return scipy.special.softmax(sums, axis=1).astype("float32")


def test_predict_write_check_the_same_bytes_every_time(corpus, tmp_path):
    paths = clips_to_predict(corpus)
    for name in ("a", "b"):
        probabilities, unreadable = predict_clips(say, paths, tmp_path / f"{name}.npy", batch_size=32)
        submission = write_submission(paths, probabilities, tmp_path / f"{name}.csv")
    assert not unreadable and submission.label.nunique() > 3
    check_submission(tmp_path / "a.csv", paths)
    assert pd.read_csv(tmp_path / "a.csv").equals(submission) and list(submission) == ["fname", "label"]
    for kind in ("csv", "npy"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_views_of_a_clip(clips):
    plain = say(clips)
    assert list(TTA_VIEWS) == ["plain", "shifted left", "amplified", "stretched"]
    assert np.allclose(tta(say, ["plain"])(clips), plain)
    both = tta(say, ["plain", "amplified"])(clips)
    assert np.allclose(2 * both - plain, say(TTA_VIEWS["amplified"](clips)), atol=1e-6)
    three = [say(TTA_VIEWS[view](clips)) for view in ("plain", "shifted left", "amplified")]
    assert np.allclose(tta(say)(clips), np.mean(three, axis=0), atol=1e-6)
    click = np.zeros((1, CLIP_SAMPLES), "float32")
    click[0, 8_000] = 1
    assert TTA_VIEWS["shifted left"](click).argmax() == 6_500
    assert TTA_VIEWS["amplified"](np.float32([[0.5, -0.9]])).tolist() == [[np.float32(0.6), -1]]
    assert all(view(clips[:3]).shape == (3, CLIP_SAMPLES) for view in TTA_VIEWS.values())


def test_ensembles():
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
    paths = clips_to_predict(corpus)[:30]
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


def test_leaderboard(corpus, tmp_path, capsys):
    solution = pd.read_csv(corpus / "solution.csv")
    solution[["fname", "label"]].to_csv(tmp_path / "anna.csv", index=False)
    solution.assign(label="unknown")[["fname", "label"]].to_csv(tmp_path / "ben.csv", index=False)
    files = [tmp_path / "ben.csv", tmp_path / "anna.csv"]
    board = leaderboard(files, corpus / "solution.csv")
    assert list(board.index) == ["anna", "ben"] and board.private["anna"] == 1 > board.private["ben"]
    (tmp_path / "bad.csv").write_text("fname,label\nclip_0.wav,yes\n")
    again = leaderboard([*files, tmp_path / "bad.csv", tmp_path / "gone.csv"], corpus / "solution.csv")
    assert again.equals(board)
    said = capsys.readouterr().out
    assert (
        f"not scored: {tmp_path / 'bad.csv'}: must name each of" in said
        and "gone.csv: there is no such file" in said
    )
    other = tmp_path / "team"
    other.mkdir()
    (other / "ben.csv").write_bytes((tmp_path / "ben.csv").read_bytes())
    board = leaderboard([*files, other / "ben.csv"], corpus / "solution.csv")
    assert list(board.index) == ["anna", str(tmp_path / "ben.csv"), str(other / "ben.csv")]


def test_a_board_without_private_clips(corpus, tmp_path):
    solution = pd.read_csv(corpus / "solution.csv").assign(Usage="Public")
    solution.to_csv(tmp_path / "solution.csv", index=False)
    solution[["fname", "label"]].to_csv(tmp_path / "anna.csv", index=False)
    solution.assign(label="unknown")[["fname", "label"]].to_csv(tmp_path / "ben.csv", index=False)
    board = leaderboard([tmp_path / "ben.csv", tmp_path / "anna.csv"], tmp_path / "solution.csv")
    assert list(board.index) == ["anna", "ben"] and board.private.isna().all() and board.public["anna"] == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda table: table.assign(Usage="Secret"),
            "solution.csv: the column Usage must say Public or Private",
        ),
        (lambda table: table[:0], "solution.csv: the column Usage"),
        (lambda table: table.assign(label="maybe"), "solution.csv: 'maybe' is none of the labels"),
        (lambda table: table.drop(columns="Usage"), "solution.csv: has no column Usage"),
        (lambda table: pd.concat([table, table[:1]]), "solution.csv: names .* more than once"),
    ],
)
def test_solutions_that_are_none(corpus, tmp_path, spoil, said):
    solution = pd.read_csv(corpus / "solution.csv")
    solution[["fname", "label"]].to_csv(tmp_path / "s.csv", index=False)
    spoil(solution).to_csv(tmp_path / "solution.csv", index=False)
    with pytest.raises(CourseError, match=said):
        score_submission(tmp_path / "s.csv", tmp_path / "solution.csv")


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


def test_words_become_labels():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(32), 5)
    words = [*LABELS[2:], *(f"word{i}" for i in range(21)), "silence"]
    twelve = words_to_labels(probabilities, words)
    np.testing.assert_allclose(twelve[:, 2:], probabilities[:, :10], rtol=1e-6)
    np.testing.assert_allclose(twelve[:, 1], probabilities[:, 10:31].sum(1), rtol=1e-6)
    np.testing.assert_allclose(twelve[:, 0], probabilities[:, 31], rtol=1e-6)


def test_held_out_clips_stand_in_for_test_clips(place, tmp_path):
    paths = stand_ins(place._replace(work=tmp_path), 5)
    assert [path.name for path in paths] == [f"clip_{number:03}.wav" for number in range(5)]
    assert all(path.parent == tmp_path / "stand_ins" and path.stat().st_size > 44 for path in paths)
