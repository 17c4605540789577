"""Corpora that a machine makes: words spoken by espeak-ng, and sounds with several labels."""

import itertools
import shutil
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import soundfile

from kws.audio import CLIP_SAMPLES, check_wav
from kws.infra import synthetic
from kws.infra.files import CourseError
from kws.infra.synthetic import (
    FOLDS,
    SOUNDS,
    SPOKEN_WORDS,
    corrupt_labels,
    load_espeak,
    make_synthetic,
    make_tags,
    make_voices,
    utter,
)
from kws.split import LABELS, which_split


def test_voices_are_different_and_seeded():
    voices = make_voices(60, seed=3)
    assert voices == make_voices(60, seed=3) != make_voices(60, seed=4)
    assert len({v.speaker for v in voices}) == len({v.name for v in voices}) == 60
    assert {which_split(v.speaker) for v in voices} == {"train", "val", "test"}


def test_espeak_refuses_an_unknown_voice():
    with pytest.raises(CourseError, match="no voice martian"):
        load_espeak()("yes", "martian")


def test_an_utterance_is_of_its_voice_and_seed():
    say, voices = load_espeak(), make_voices(2)
    one, other = (utter(say, voice, "yes", np.random.default_rng(0)) for voice in voices)
    assert one.dtype == np.float32 and 0 < len(one) <= CLIP_SAMPLES and 0 < np.abs(one).max() <= 1
    assert np.array_equal(one, utter(load_espeak(), voices[0], "yes", np.random.default_rng(0)))
    assert not np.array_equal(one, other)


def test_synthetic_corpus(corpus):
    wavs = sorted(corpus.glob("train/audio/[!_]*/*.wav"))
    assert {p.parent.name for p in wavs} == set(SPOKEN_WORDS)
    assert len(wavs) == 20 * len(SPOKEN_WORDS)
    assert not any(check_wav(p)[0] for p in [*wavs, *corpus.glob("test/audio/*.wav")])
    lengths = np.array([soundfile.info(p).frames for p in wavs])
    assert lengths.max() == CLIP_SAMPLES and 0.03 < (lengths < CLIP_SAMPLES).mean() < 0.2
    solution = pd.read_csv(corpus / "solution.csv")
    assert set(solution.fname) == {p.name for p in corpus.glob("test/audio/*.wav")}
    assert set(solution.label) == set(LABELS) and set(solution.Usage) == {"Public", "Private"}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_synthetic_corpus_is_seeded_and_goes_on_after_a_stop(corpus, tmp_path):
    again = tmp_path / corpus.name
    shutil.copytree(corpus, again)
    for path in [
        again / "made.json",
        again / "solution.csv",
        *sorted(again.glob("train/audio/[a-f]*/*.wav")),
        *again.glob("test/audio/clip_[0-7]*.wav"),
    ]:
        path.unlink()
    make_synthetic(again, "smoke", seed=0)
    assert contents(again) == contents(corpus)


TINY = {"sizes": {"tiny": (3, 1, 1, 2)}, "words": ("yes", "bed")}


def test_a_made_corpus_is_left_alone(tmp_path):
    first = contents(make_synthetic(tmp_path / "a", "tiny", **TINY))
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert contents(make_synthetic(tmp_path / "a", "tiny", **TINY)) == first
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}, "made again"


def test_words_of_another_language(tmp_path):
    words = {"no": "لا", "zoom in": "تَكبير"}
    arabic = {"sizes": {"tiny": (2, 1, 0, 2)}, "words": words, "accents": ("ar",)}
    folder = make_synthetic(tmp_path / "arabic", "tiny", **arabic)
    wavs = {path.relative_to(folder): path.read_bytes() for path in folder.glob("train/audio/[!_]*/*.wav")}
    assert sorted(path.parent.name for path in wavs) == ["no", "no", "zoom in", "zoom in"]
    make_synthetic(folder, "tiny", **arabic | {"words": (*words,)})
    assert wavs.keys() == {path.relative_to(folder) for path in folder.glob("train/audio/[!_]*/*.wav")}
    assert all((folder / path).read_bytes() != content for path, content in wavs.items()), "the label is said"


@pytest.mark.parametrize("stopped", [False, True], ids=["whole", "stopped"])
@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"words": ("no", "bed")}, {"sizes": {"tiny": (2, 1, 1, 2)}}],
    ids=["seed", "words", "sizes"],
)
def test_two_corpora_are_not_mixed(tmp_path, monkeypatch, changed, stopped):
    """In the folder of another corpus, whole or stopped, one is refused, or made as it would be alone."""
    if stopped:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(synthetic, "_write_silent_tests", Mock(side_effect=KeyboardInterrupt))
            make_synthetic(tmp_path / "a", "tiny", **TINY)
    else:
        make_synthetic(tmp_path / "a", "tiny", **TINY)
    alone = contents(make_synthetic(tmp_path / "b", "tiny", **TINY | changed))
    try:
        found = contents(make_synthetic(tmp_path / "a", "tiny", **TINY | changed))
    except CourseError as error:
        assert str(tmp_path / "a") in str(error)
    else:
        assert found.keys() == alone.keys(), "what was there is mixed with it"
        assert found == alone


def test_tags_are_made_once_and_from_their_seed(tmp_path):
    few = {"train_curated": 2, "train_noisy": 1, "test": 1}
    one, two, three = (make_tags(tmp_path / f"{i}", few, seed) for i, seed in enumerate((0, 0, 1)))
    first = [(folder / "train_curated/curated0001.wav").read_bytes() for folder in (one, two, three)]
    assert first[0] == first[1] != first[2]
    stamps = {path: path.stat().st_mtime_ns for path in one.rglob("*")}
    make_tags(one, few)
    assert stamps == {path: path.stat().st_mtime_ns for path in one.rglob("*")}, "made again"
    make_tags(one, few, seed=1)
    assert contents(one) == contents(three)


def test_mixtures_of_recordings_keep_the_folds_apart(tmp_path):
    """Recordings of a constant tone each, so that what is in a mixture can be found in its spectrum."""
    folder, rows, tones = tmp_path / "esc10", [], {}
    for i, (kind, fold) in enumerate(itertools.product(("bark", "rain", "wind"), (1, 2, 3, 4, 5))):
        name, tones[f"{i}.ogg"] = f"{i}.ogg", 500 + 300 * i
        t = np.arange(5 * 44_100) / 44_100
        (folder / "audio").mkdir(parents=True, exist_ok=True)
        sound = np.where(abs(t - 4) < 0.4, np.sin(2 * np.pi * tones[name] * t), 0)  # the rest is silent
        soundfile.write(folder / "audio" / name, sound, 44_100, format="WAV")
        rows.append((name, kind, fold))
    pd.DataFrame(rows, columns=["fname", "label", "fold"]).to_csv(folder / "esc10.csv", index=False)
    sizes = {"train_curated": 4, "train_noisy": 40, "validation": 4, "test": 4}
    tags = make_tags(tmp_path / "tags", sizes, recordings=folder)
    kinds, folds = ({row[0]: row[i] for row in rows} for i in (1, 2))
    for part, own in FOLDS.items():
        table = pd.read_csv(tags / ("solution.csv" if part == "test" else f"{part}.csv"))
        assert len(table) == sizes[part]
        for row in table.itertuples():
            names = row.recordings.split(",")
            labels = (row.truth if part == "train_noisy" else row.labels).split(",")
            assert [kinds[name] for name in names] == labels == sorted(set(labels)) and len(labels) in (2, 3)
            assert {folds[name] for name in names} <= set(own), f"{part}: a recording of another fold"
            clip, rate = soundfile.read(tags / part / row.fname)
            assert rate == 44_100 and 1.5 <= len(clip) / rate <= 4 and np.abs(clip).max() <= 0.9
            power = np.abs(np.fft.rfft(clip)) ** 2
            at = {name: round(tone * len(clip) / rate) for name, tone in tones.items()}
            found = {name: power[i - 8 : i + 9].sum() / power.sum() for name, i in at.items()}
            assert {name for name, share in found.items() if share > 0.01} == set(names)
            times = np.array([time.split("-") for time in row.times.split(",")], float)
            assert len(times) == len(labels) and times.min() >= 0 and times.max() <= len(clip) / rate + 0.01
            heard = np.flatnonzero(np.abs(clip) > 1e-4) / rate
            inside = [(heard >= first - 0.01) & (heard <= last + 0.01) for first, last in times]
            assert np.any(inside, axis=0).all(), "heard outside of its times"
        if part == "train_noisy":
            assert (table.labels != table.truth).mean() > 0.5
    assert list(pd.read_csv(tags / "sample_submission.csv")) == ["fname", "bark", "rain", "wind"]


def test_corrupted_labels_are_missing_and_wrong():
    rng, names = np.random.default_rng(0), list(SOUNDS)
    labels = [list(rng.choice(names, 3, replace=False)) for _ in range(2_000)]
    untouched = [corrupt_labels(each, rng, 0, 0) for each in labels]
    assert all(set(each) == set(own) for each, own in zip(untouched, labels))
    missing = np.mean([len(corrupt_labels(each, rng, wrong=0, missing=0.4)) for each in labels])
    assert missing == pytest.approx(3 * 0.6 + 0.4**3, abs=0.05)
    wrong = [corrupt_labels(each, rng, wrong=0.3, missing=0) for each in labels]
    right = np.mean([len(set(each) & set(own)) for each, own in zip(wrong, labels)])
    assert right == pytest.approx(3 * (0.7 + 0.3 * 0.3 * 2 / 15), abs=0.05)
