"""Notebook 2: features against librosa, augmentation, the store."""

import librosa
import numpy as np
import pytest
import scipy.fft
import tensorflow as tf

from kws import preprocess
from kws.preprocess import (
    FLOOR,
    MEL,
    FrontEnd,
    add_noise,
    compute_rows,
    gain,
    log_mel,
    mfcc,
    open_store,
    read_noise,
    shift,
    spec_augment,
    stretch,
    training_batches,
    write_store,
)
from kws.split import (
    CLIP_SAMPLES,
    LABELS,
    SAMPLE_RATE,
    CorpusError,
    make_manifest,
    noise_stretches,
    read_clip,
)


def librosa_log_mel(clip):
    power = librosa.feature.melspectrogram(
        y=np.pad(clip, 16), sr=SAMPLE_RATE, n_fft=512, win_length=480, hop_length=160, center=False, **MEL
    )
    return np.log(power + FLOOR).T


def check_features(clips):
    expected = np.stack([librosa_log_mel(clip) for clip in clips])
    np.testing.assert_allclose(log_mel(clips), expected, atol=1e-3)
    cepstra = np.stack([librosa.feature.mfcc(S=e.T, n_mfcc=40).T for e in expected])
    np.testing.assert_allclose(mfcc(clips), cepstra, atol=5e-3)
    np.testing.assert_allclose(mfcc(clips), scipy.fft.dct(expected, axis=-1, norm="ortho"), atol=5e-3)


def test_features_equal_librosa(clips):
    check_features(np.concatenate([clips, np.zeros((1, CLIP_SAMPLES), "float32"), np.sign(clips[:1])]))


def test_features_equal_librosa_on_real_speech(real_corpus):
    paths = sorted(real_corpus.glob("train/audio/[!_]*/*.wav"))[::130]
    check_features(np.stack([read_clip(path) for path in paths]))


def test_features_do_not_depend_on_the_batch(clips):
    np.testing.assert_allclose(log_mel(clips)[3], log_mel(clips[3:4])[0], atol=1e-5)


def test_front_end_normalises(clips):
    features = np.array(log_mel(clips))
    layer = FrontEnd("log_mel", features.mean((0, 1)), features.std((0, 1)))
    out = np.array(layer(clips))
    np.testing.assert_allclose(out.mean((0, 1)), 0, atol=1e-3)
    np.testing.assert_allclose(out.std((0, 1)), 1, atol=1e-3)


@pytest.mark.parametrize(
    "augment",
    [shift, gain, stretch, lambda x, seed: add_noise(x, tf.random.stateless_normal([40_000], (0, 1)), seed)],
)
def test_augmentation_is_seeded_and_keeps_the_shape(clips, augment):
    once, again, other = (np.array(augment(clips, seed)) for seed in ((1, 2), (1, 2), (3, 4)))
    assert once.shape == clips.shape and once.dtype == np.float32
    assert np.array_equal(once, again) and not np.array_equal(once, other)
    rows = (np.array(augment(np.repeat(clips[:1], 8, axis=0), (1, 2))) - clips[0]).std(axis=1)
    assert len(np.unique(rows.round(6))) > 2, "all clips of a batch got the same"


def test_shift_moves_by_at_most_its_limit():
    click = np.zeros((200, CLIP_SAMPLES), "float32")
    click[:, 8_000] = 1
    places = np.array(shift(click, (0, 1), most=1_600)).argmax(1) - 8_000
    assert np.abs(places).max() <= 1_600 and places.min() < -1_000 and places.max() > 1_000
    assert np.array_equal(np.array(shift(click, (0, 1))).sum(1), np.ones(200))


def test_gain_stays_in_its_range():
    factors = np.array(gain(np.ones((500, CLIP_SAMPLES), "float32"), (0, 1), 0.5, 1.5))[:, 0]
    assert 0.5 <= factors.min() < 0.6 and 1.4 < factors.max() < 1.5


def test_stretch_moves_pitch():
    tone = np.sin(2 * np.pi * 1_000 * np.arange(CLIP_SAMPLES) / SAMPLE_RATE).astype("float32")
    out = np.array(stretch(np.repeat(tone[None], 100, axis=0), (0, 1), most=0.15))[:, 2_000:-2_000]
    hertz = np.abs(np.fft.rfft(out)).argmax(1) * SAMPLE_RATE / out.shape[1]
    assert 840 < hertz.min() < 900 and 1_100 < hertz.max() < 1_160


def test_stretch_brings_in_zeros_on_both_sides():
    out = np.array(stretch(np.full((50, CLIP_SAMPLES), 0.5, "float32"), (0, 1), most=0.15))
    for clip in out:
        inside = np.flatnonzero(clip > 0)
        assert np.isclose(clip[inside], 0.5).sum() >= len(inside) - 2, (
            "something between silence and the clip"
        )
    assert (out[:, 0] == 0).any() and (out[:, -1] == 0).any()


def test_noise_has_its_share_and_level():
    noise = tf.constant(np.random.default_rng(0).standard_normal(100_000).astype("float32"))
    levels = np.array(
        add_noise(np.zeros((1_000, CLIP_SAMPLES), "float32"), noise, (0, 1), probability=0.8, most=0.1)
    ).std(1)
    assert (levels > 0).mean() == pytest.approx(0.8, abs=0.04)
    assert 0.09 < levels.max() < 0.102


def test_training_noise_is_training_noise(corpus):
    stretches = noise_stretches(corpus)
    train = stretches[stretches.split == "train"]
    assert len(read_noise(corpus)) == (train.stop - train.start).sum()


def test_spec_augment_blanks_at_most_its_bands():
    out = np.array(spec_augment(tf.ones([200, 98, 40]), (0, 1), frames=10, bins=5))
    blank_frames, blank_bins = (out.max(2) == 0).sum(1), (out.max(1) == 0).sum(1)
    assert blank_frames.max() <= 20 and blank_bins.max() <= 10
    assert blank_frames.mean() > 5 and blank_bins.mean() > 2


def test_training_batches(clips):
    pcm, labels = (clips * 32_768).astype("int16"), np.arange(40) % 12
    front_end = FrontEnd("log_mel", [0.0] * 40, [1.0] * 40)

    def epochs(seed):
        batches = training_batches(
            pcm, labels, np.zeros(20_000, "float32"), front_end, 16, seed, rows=[0, 1, 1, 5]
        )
        return [[(f.numpy(), y.numpy()) for f, y in batches] for _ in range(2)]

    (first, second), again, other = epochs(1), epochs(1), epochs(2)
    features, targets = first[0]
    assert features.shape == (4, 98, 40) and targets.shape == (4, len(LABELS))
    assert sorted(targets.argmax(1)) == [0, 1, 1, 5]
    assert np.array_equal(features, again[0][0][0]) and np.array_equal(second[0][0], again[1][0][0])
    assert not np.array_equal(features, second[0][0]) and not np.array_equal(features, other[0][0][0])


@pytest.fixture(params=["bcolz", "blosc2"])
def backend(request, monkeypatch):
    """Each test of the store runs with both."""
    if request.param == "blosc2":
        pytest.importorskip("blosc2")
        monkeypatch.setattr(preprocess, "bcolz", None)
    elif preprocess.bcolz is None:
        pytest.skip("bcolz is not installed")
    return request.param


@pytest.mark.parametrize("feature", ["pcm", "log_mel"])
def test_store_holds_what_was_computed(backend, manifest, tmp_path, feature):
    store = write_store(tmp_path, feature, manifest, block=100)
    assert store.attrs["record"]["written_by"].startswith(backend)
    expected = compute_rows(feature, manifest)
    assert np.array_equal(store[:], expected) and store.dtype == expected.dtype
    rows = [3, 77, 150]
    assert np.array_equal(open_store(tmp_path, feature, manifest)[rows], expected[rows])
    if feature == "log_mel":
        train = expected[manifest.split == "train"].reshape(-1, 40)
        np.testing.assert_allclose(store.attrs["statistics"]["mean"], train.mean(0), rtol=1e-4)
        np.testing.assert_allclose(store.attrs["statistics"]["deviation"], train.std(0), rtol=1e-4)


def test_interrupted_store_goes_on(backend, manifest, tmp_path, monkeypatch):
    calls = []

    def interrupted(feature, rows):
        calls.append(len(rows))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compute_rows(feature, rows)

    monkeypatch.setattr(preprocess, "compute_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path, "log_mel", manifest, block=64)
    with pytest.raises(CorpusError, match="2_preprocess_augment.ipynb"):
        open_store(tmp_path, "log_mel", manifest)
    store = write_store(tmp_path, "log_mel", manifest, block=64)
    assert sum(calls[4:]) == len(manifest) - 128, "rows that were there were computed again"
    assert np.array_equal(store[:], compute_rows("log_mel", manifest))


def test_stale_store_is_refused_and_replaced(backend, corpus, manifest, tmp_path, monkeypatch):
    write_store(tmp_path, "log_mel", manifest)
    other = make_manifest(corpus, tmp_path / "other", "sample", seed=1)
    with pytest.raises(CorpusError, match="another manifest"):
        open_store(tmp_path, "log_mel", other)
    monkeypatch.setitem(preprocess.MEL, "n_mels", 41)
    with pytest.raises(CorpusError, match="other parameters"):
        open_store(tmp_path, "log_mel", manifest)
    monkeypatch.undo()
    if backend == "bcolz":
        assert len(write_store(tmp_path, "log_mel", other)) == len(other)
