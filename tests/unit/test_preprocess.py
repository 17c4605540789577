"""Notebook 2: features against librosa and TensorFlow's own, normalisation, augmentation, batches."""

import functools
import json

import keras
import librosa
import numpy as np
import pytest
import scipy.fft
import tensorflow as tf

from kws import preprocess
from kws.audio import (
    CLIP_SAMPLES,
    FULL_SCALE,
    NOISE_COLOURS,
    SAMPLE_RATE,
    coloured_noise,
    noise_bank,
    read_clip,
)
from kws.infra.batches import epoch_pools, shuffled_batches
from kws.infra.files import CourseError
from kws.infra.store import chunk_rows, read_rows
from kws.preprocess import (
    FEATURES,
    FLOOR,
    FRAMES,
    MEL,
    PCEN,
    FrontEnd,
    add_noise,
    add_noise_at,
    compute_rows,
    feature_parameters,
    fft_bands,
    gain,
    log_mel,
    mfcc,
    mfcc_delta,
    normalise_clip,
    pcen,
    power_spectrum,
    raw_pcm,
    read_noise,
    shift,
    spec_augment,
    spectrogram,
    speed_perturb,
    stack_frames,
    standard_augmentations,
    tempogram,
    training_batches,
)
from kws.rhythm import onset_strength
from kws.split import LABELS, noise_stretches
from kws.stretch import (
    impulse_responses,
    overlap,
    read_stretched,
    reverberate,
    stretch_and_pitch,
    with_stretched_copies,
)

STFT = {"n_fft": 512, "win_length": 480, "hop_length": 160, "center": False}
NOISE = tf.constant(np.random.default_rng(0).standard_normal(100_000).astype("float32"))
TONE = np.sin(2 * np.pi * 1_000 * np.arange(CLIP_SAMPLES) / SAMPLE_RATE).astype("float32")


def librosa_mel_power(clip):
    return librosa.feature.melspectrogram(y=np.pad(clip, 16), sr=SAMPLE_RATE, **STFT, **MEL)


def check_features(clips):
    """Each feature against librosa's, clip by clip."""
    power = np.stack([librosa_mel_power(clip) for clip in clips])
    expected = np.log(power + FLOOR).transpose(0, 2, 1)
    np.testing.assert_allclose(log_mel(clips), expected, atol=1e-3)
    cepstra = np.stack([librosa.feature.mfcc(S=e.T, n_mfcc=40).T for e in expected])
    np.testing.assert_allclose(mfcc(clips), cepstra, atol=5e-3)
    np.testing.assert_allclose(mfcc(clips), scipy.fft.dct(expected, axis=-1, norm="ortho"), atol=5e-3)
    slopes = [librosa.feature.delta(cepstra[..., :13], order=order, axis=1) for order in (1, 2)]
    np.testing.assert_allclose(mfcc_delta(clips), np.concatenate([cepstra[..., :13], *slopes], -1), atol=5e-3)
    stft = [np.abs(librosa.stft(np.pad(clip, 16), **STFT)).T ** 2 for clip in clips]
    np.testing.assert_allclose(spectrogram(clips), np.log(np.stack(stft) + FLOOR), atol=2e-2)
    np.testing.assert_allclose(power_spectrum(clips), stft, rtol=1e-3, atol=1e-3)
    check_pcen(clips, power)
    check_tempogram(clips)


def check_pcen(clips, power):
    energy = power * PCEN["scale"]
    t = PCEN["seconds"] * SAMPLE_RATE / 160
    b = (np.sqrt(1 + 4 * t**2) - 1) / (2 * t**2)
    names = {"gain": "gain", "bias": "bias", "power": "power", "seconds": "time_constant", "epsilon": "eps"}
    settings = {theirs: PCEN[ours] for ours, theirs in names.items()}
    expected = [
        librosa.pcen(e, sr=SAMPLE_RATE, hop_length=160, zi=(1 - b) * e[:, :1], **settings).T for e in energy
    ]
    np.testing.assert_allclose(pcen(clips), expected, rtol=1e-3, atol=1e-3)


def check_tempogram(clips):
    for clip, ours in zip(clips, tempogram(clips)):
        envelope = onset_strength(log_mel(clip[None]))[0].numpy()
        theirs = librosa.feature.tempogram(
            onset_envelope=envelope, sr=SAMPLE_RATE, hop_length=160, win_length=64
        )
        np.testing.assert_allclose(ours, theirs.T, atol=1e-3)


def test_features_equal_librosa(clips):
    check_features(np.concatenate([clips, np.zeros((1, CLIP_SAMPLES), "float32"), np.sign(clips[:1])]))


@pytest.mark.full  # unpacking takes half a minute
def test_features_equal_librosa_on_real_speech(real_corpus):
    paths = sorted(real_corpus.glob("train/audio/[!_]*/*.wav"))[::130]
    check_features(np.stack([read_clip(path) for path in paths]))


def test_onset_strength_is_librosas_but_for_the_unit(clips):
    decibels = 10 / np.log(10) * log_mel(clips[:1])[0].numpy().T
    theirs = librosa.onset.onset_strength(S=decibels, sr=SAMPLE_RATE, center=False)
    np.testing.assert_allclose(10 / np.log(10) * onset_strength(log_mel(clips[:1]))[0], theirs, atol=1e-3)


def test_fft_is_the_magnitude(clips):
    magnitude = np.abs(np.fft.rfft(clips))[:, 1:].reshape(len(clips), 160, 50).mean(-1)
    np.testing.assert_allclose(fft_bands(clips), np.log(magnitude + FLOOR), atol=1e-3)
    moved = np.roll(clips, 777, axis=1)
    np.testing.assert_allclose(fft_bands(moved), fft_bands(clips), atol=1e-2)


def test_mfcc_and_tensorflows_own(clips):
    """Given TensorFlow's definitions (HTK mel on magnitudes, floor 1e-12) our steps give its numbers."""
    power = tf.raw_ops.AudioSpectrogram(input=clips.T, window_size=480, stride=160, magnitude_squared=True)
    np.testing.assert_allclose(power_spectrum(clips), power, rtol=1e-3, atol=1e-4)
    limits = {"lower_frequency_limit": 20, "upper_frequency_limit": 7_600}
    theirs = tf.raw_ops.Mfcc(
        spectrogram=power,
        sample_rate=SAMPLE_RATE,
        filterbank_channel_count=40,
        dct_coefficient_count=40,
        **limits,
    ).numpy()
    edges = np.linspace(*(1_127 * np.log1p(hertz / 700) for hertz in limits.values()), 42)
    hertz = np.arange(257) * SAMPLE_RATE / 512
    triangles = 1 - np.abs(1_127 * np.log1p(hertz / 700)[:, None] - edges[1:-1]) / (edges[1] - edges[0])
    triangles[(hertz < 20 + 15.625) | (hertz > 7_600)] = 0
    mel = np.sqrt(power_spectrum(clips)) @ np.maximum(triangles, 0)
    ours = scipy.fft.dct(np.log(np.maximum(mel, 1e-12)), axis=-1, norm="ortho")
    ours[..., 0] *= np.sqrt(2)
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()
    assert np.abs(mfcc(clips) - theirs).max() > 1, "as they are, they differ"


@pytest.mark.parametrize("feature", FEATURES)
def test_features_do_not_depend_on_the_batch(clips, feature):
    compute = FEATURES[feature].compute
    np.testing.assert_allclose(compute(clips)[3], compute(clips[3:4])[0], atol=1e-4)
    assert np.isfinite(compute(np.zeros((2, CLIP_SAMPLES), "float32"))).all()


def test_raw_pcm_is_pcm(clips):
    assert np.array_equal(raw_pcm(clips)[..., 0], clips) and raw_pcm(clips).shape == (40, CLIP_SAMPLES, 1)


def test_front_end_normalises(clips):
    features = np.array(log_mel(clips))
    layer = FrontEnd("log_mel", mean=features.mean((0, 1)), std=features.std((0, 1)))
    out = np.array(layer(clips))
    np.testing.assert_allclose(out.mean((0, 1)), 0, atol=1e-3)
    np.testing.assert_allclose(out.std((0, 1)), 1, atol=1e-3)


def test_a_model_of_other_parameters_is_refused(tmp_path, monkeypatch, clips):
    pcm = keras.Input((CLIP_SAMPLES,))
    model = keras.Model(pcm, FrontEnd("log_mel", [0.0] * 40, [1.0] * 40)(pcm))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(again(clips), model(clips))
    changed = FEATURES["log_mel"]._replace(parameters=FEATURES["log_mel"].parameters | {"fmin": 50.0})
    monkeypatch.setitem(preprocess.FEATURES, "log_mel", changed)
    with pytest.raises(CourseError, match="fmin is 20.0, wanted 50.0"):
        keras.models.load_model(tmp_path / "model.keras")


def test_parameters_travel_as_json():
    for feature in FEATURES:
        parameters = feature_parameters(feature)
        assert json.loads(json.dumps(parameters)) == parameters and parameters["feature"] == feature


def test_normalised_by_clip(clips):
    out = normalise_clip(3 * log_mel(clips) + 5).numpy()
    np.testing.assert_allclose(out, normalise_clip(log_mel(clips)), atol=5e-2)
    assert np.abs(out.mean(1)).max() < 1e-3


def test_stacked_frames_are_neighbours():
    features = np.arange(2 * FRAMES * 3, dtype="float32").reshape(2, FRAMES, 3)
    stacked = stack_frames(features, neighbours=2, step=3).numpy()
    assert stacked.shape == (2, 32, 15)
    for row in (0, 7, 31):
        assert np.array_equal(stacked[:, row], features[:, 3 * row : 3 * row + 5].reshape(2, 15))


AUGMENTATIONS = {
    "shift": shift,
    "circular": functools.partial(shift, circular=True),
    "gain": gain,
    "speed_perturb": speed_perturb,
    "add_noise": functools.partial(add_noise, noise=NOISE),
    "add_noise_at": functools.partial(add_noise_at, noise=NOISE),
    "overlap": overlap,
    "reverberate": reverberate,
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_is_seeded_and_keeps_the_shape(clips, name):
    augment = AUGMENTATIONS[name]
    once, again, other = (np.array(augment(clips, seed)) for seed in ((1, 2), (1, 2), (3, 4)))
    assert once.shape == clips.shape and once.dtype == np.float32 and np.isfinite(once).all()
    assert np.array_equal(once, again) and not np.array_equal(once, other)
    if name != "overlap":
        rows = (np.array(augment(np.repeat(clips[:1], 8, axis=0), (1, 2))) - clips[0]).std(axis=1)
        assert len(np.unique(rows.round(6))) > 2, "all clips of a batch got the same"
    assert np.isfinite(augment(np.zeros((3, CLIP_SAMPLES), "float32"), (1, 2))).all()


def test_shift_moves_by_at_most_its_limit():
    click = np.zeros((200, CLIP_SAMPLES), "float32")
    click[:, 8_000] = 1
    places = np.array(shift(click, (0, 1), max_shift=1_600)).argmax(1) - 8_000
    assert np.abs(places).max() <= 1_600 and places.min() < -1_000 and places.max() > 1_000
    assert np.array_equal(np.array(shift(click, (0, 1))).sum(1), np.ones(200))


def test_circular_shift_loses_nothing(clips):
    zeros, circular = shift(clips, (0, 1)), shift(clips, (0, 1), circular=True)
    assert np.array_equal(np.sort(circular, axis=1), np.sort(clips, axis=1))
    same = np.array(zeros) == np.array(circular)
    assert same[:, 1_600:-1_600].all() and not same.all(), "both move alike; only what enters differs"


def test_gain_stays_in_its_range():
    factors = np.array(gain(np.ones((500, CLIP_SAMPLES), "float32"), (0, 1), 0.5, 1.5))[:, 0]
    assert 0.5 <= factors.min() < 0.6 and 1.4 < factors.max() < 1.5


def loudest_hertz(clips):
    inner = np.asarray(clips)[:, 2_000:-2_000]
    return np.abs(np.fft.rfft(inner)).argmax(1) * SAMPLE_RATE / inner.shape[1]


def test_speed_moves_pitch():
    hertz = loudest_hertz(speed_perturb(np.repeat(TONE[None], 100, axis=0), (0, 1), max_change=0.15))
    assert 840 < hertz.min() < 900 and 1_100 < hertz.max() < 1_160


def test_speed_brings_in_zeros_on_both_sides():
    out = np.array(speed_perturb(np.full((50, CLIP_SAMPLES), 0.5, "float32"), (0, 1), max_change=0.15))
    for clip in out:
        inside = np.flatnonzero(clip > 0)
        assert len(inside) > 13_000 and np.isclose(clip[inside], 0.5).sum() >= len(inside) - 2, (
            "something between silence and the clip"
        )
    assert (out[:, 0] == 0).any() and (out[:, -1] == 0).any()


def middle_and_width(clip):
    """Where the energy of a clip of even loudness is, and how long it is, in samples."""
    place = np.arange(len(clip))
    middle = np.average(place, weights=clip**2)
    return middle, np.sqrt(12 * np.average((place - middle) ** 2, weights=clip**2))


def test_stretching_keeps_pitch_and_pitching_keeps_length():
    clip = np.where(np.abs(np.arange(CLIP_SAMPLES) - 8_000) < 4_000, TONE, 0)
    assert np.array_equal(stretch_and_pitch(clip), clip)
    for rate, semitones, hertz in ((0.8, 0, 1_000), (1.25, 0, 1_000), (1, 4, 1_260)):
        out = stretch_and_pitch(clip, rate, semitones)
        middle, width = middle_and_width(out)
        assert out.shape == (CLIP_SAMPLES,) and middle == pytest.approx(8_000, abs=400)
        assert width == pytest.approx(8_000 / rate, rel=0.08)
        assert loudest_hertz(out[None])[0] == pytest.approx(hertz, rel=0.01)


def test_copies_are_of_training_clips_only(manifest):
    both = with_stretched_copies(manifest, seed=3)
    copies = both[len(manifest) :]
    assert both[: len(manifest)][list(manifest)].equals(manifest)
    assert set(copies.split) == {"train"} and (copies.speaker != "").all()
    assert copies.rate.between(0.85, 1.15).all() and copies.semitones.between(-2, 2).all()
    assert both.equals(with_stretched_copies(manifest, seed=3)) and not both.equals(
        with_stretched_copies(manifest, seed=4)
    )
    r = copies.iloc[0]
    expected = stretch_and_pitch(read_clip(r.path), r.rate, r.semitones)
    assert np.array_equal(read_stretched(copies[:1])[0], expected)
    assert np.array_equal(
        read_stretched(copies[:1].drop(columns=["rate", "semitones"]))[0], read_clip(r.path)
    )
    assert np.array_equal(read_stretched(both[:1]), read_stretched(manifest[:1])), "rate 1 changes nothing"
    stored = compute_rows("pcm", copies[:1])[0] / FULL_SCALE
    assert np.abs(stored - np.clip(expected, -1, 1)).max() <= 1 / FULL_SCALE
    features = compute_rows("log_mel", copies[:3])
    np.testing.assert_allclose(features, log_mel(read_stretched(copies[:3])), atol=1e-4)


def test_noise_has_its_share_and_level():
    silent = np.zeros((1_000, CLIP_SAMPLES), "float32")
    levels = np.array(add_noise(silent, (0, 1), NOISE, probability=0.8, max_volume=0.1)).std(1)
    assert (levels > 0).mean() == pytest.approx(0.8, abs=0.04)
    assert 0.09 < levels.max() < 0.102


def test_noise_at_a_signal_to_noise_ratio(clips):
    many = np.repeat(clips, 10, axis=0)
    added = np.array(add_noise_at(many, (0, 1), NOISE, 0, 20)) - many
    ratios = 10 * np.log10((many**2).mean(1) / (added**2).mean(1))
    assert -0.1 < ratios.min() < 1 and 19 < ratios.max() < 20.1
    assert ratios.mean() == pytest.approx(10, abs=1)


def test_noise_of_a_colour():
    assert NOISE_COLOURS == {"white": 0, "pink": 1, "brown": 2, "blue": -1, "violet": -2}
    for colour, exponent in NOISE_COLOURS.items():
        noise = noise_bank(colour, seconds=10, seed=1)
        expected = coloured_noise(160_000, exponent, np.random.default_rng(1)).astype("float32")
        assert noise.dtype == np.float32 and np.array_equal(noise, expected)
        assert np.mean(noise**2) == pytest.approx(1, rel=1e-3)
        assert not np.array_equal(noise, noise_bank(colour, seconds=10, seed=2))


def test_laid_under_is_another_clip():
    names = np.eye(10, CLIP_SAMPLES, dtype="float32")
    added = np.array(overlap(names, (0, 1), probability=1, max_volume=0.3)) - names
    assert (np.count_nonzero(added, axis=1) == 1).all() and not added[np.arange(10), np.arange(10)].any()
    assert 0 < added.max() <= 0.3
    share = (
        (np.array(overlap(np.ones((500, CLIP_SAMPLES), "float32"), (0, 1), probability=0.5)) != 1)
        .any(1)
        .mean()
    )
    assert share == pytest.approx(0.5, abs=0.07)


def test_a_room_keeps_power_and_fades(clips):
    heard = np.array(reverberate(clips, (0, 1)))
    np.testing.assert_allclose((heard**2).mean(1), (clips**2).mean(1), rtol=1e-3)
    rooms = np.array(impulse_responses(200, (0, 1), shortest=0.2, longest=0.2, wet=0.5))
    assert (rooms[:, 0] == 1).all() and (rooms[:, 1:] ** 2).sum(1).max() < 0.5
    level = 10 * np.log10((rooms[:, 1:] ** 2 / (rooms[:, 1:] ** 2).sum(1, keepdims=True)).mean(0))
    fall = level[:160].mean() - level[1_600:1_760].mean()
    assert fall == pytest.approx(30, abs=1), "60 dB in 0.2 s are 30 dB in 0.1 s"
    click = np.zeros((1, CLIP_SAMPLES), "float32")
    click[0, 100] = 1
    out = np.array(reverberate(click, (0, 1)))[0]
    assert np.abs(out[:100]).max() < 1e-5 and out.argmax() == 100, "nothing is heard before it is said"


def test_training_noise_is_training_noise(corpus):
    stretches = noise_stretches(corpus)
    train = stretches[stretches.split == "train"]
    assert len(read_noise(corpus)) == (train.stop - train.start).sum()


def test_spec_augment_blanks_at_most_its_bands():
    out = np.array(spec_augment(tf.ones([200, 98, 40]), (0, 1), frames=10, bins=5))
    blank_frames, blank_bins = (out.max(2) == 0).sum(1), (out.max(1) == 0).sum(1)
    assert blank_frames.max() <= 20 and blank_bins.max() <= 10
    assert blank_frames.mean() > 5 and blank_bins.mean() > 2


class Counted:
    """An array that counts the slices read from it and the rows of the largest."""

    chunklen = 16

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.slices, self.most = array, array.shape, array.dtype, 0, 0

    def __getitem__(self, key):
        self.slices, self.most = self.slices + 1, max(self.most, len(self.array[key]))
        return self.array[key]


def test_rows_are_read_chunk_by_chunk():
    store = Counted(np.arange(1_000))
    rows = np.random.default_rng(0).integers(0, 1_000, 700)
    assert np.array_equal(read_rows(store, rows), rows) and chunk_rows(store) == 16
    assert store.slices == len(np.unique(rows // 16)) and store.most == 16


def test_pools_hold_each_row_once_and_whole_chunks():
    rows = np.repeat(np.arange(1_000), 2)
    pools = epoch_pools(rows, 16, 320, np.random.default_rng(0))
    assert [len(pool) for pool in pools] == [320] * 6 + [80]
    assert np.array_equal(np.sort(np.concatenate(pools)), rows)
    assert all(len(np.unique(pool // 16)) <= 320 / 32 + 2 for pool in pools)


def test_an_epoch_unpacks_each_chunk_about_once_and_keeps_one_pool():
    store = Counted(np.arange(4_000))
    batches = shuffled_batches(store, np.arange(4_000), np.arange(4_000), batch_size=20, pool=10, seed=0)
    assert store.slices == 0 and len(batches) == 200
    assert sorted(np.concatenate([y for _, y in batches])) == list(range(4_000))
    assert store.slices <= 4_000 / 16 + 20, "a chunk may be cut by the edge of a pool, no more"


def test_batches_are_as_mixed_as_a_full_shuffle():
    words = np.arange(20_000) // 667  # sorted by word, as the manifest is
    batches = shuffled_batches(Counted(words), words, np.arange(len(words)), pool=20, seed=0)
    by_pool = [len(np.unique(y)) for _, y in batches]
    full = np.random.default_rng(0).permutation(words).reshape(-1, 100)
    by_shuffle = [len(np.unique(y)) for y in full]
    assert np.mean(by_pool) > 0.93 * np.mean(by_shuffle) and min(by_pool) > 15


def test_training_batches_want_a_class_for_each_label(clips):
    front_end = FrontEnd("log_mel", [0.0] * 40, [1.0] * 40)
    with pytest.raises(CourseError, match="label 12 needs classes=13, not 12"):
        training_batches((clips * 32_768).astype("int16"), np.arange(40) % 13, np.arange(40), front_end, ())


@pytest.mark.parametrize("pool", [40, 1])
def test_training_batches(clips, pool):
    pcm, labels = (clips * 32_768).astype("int16"), np.arange(40) % 12
    front_end = FrontEnd("log_mel", [0.0] * 40, [1.0] * 40)
    rows = [0, 1, 1, 5, 38, 39]

    def epochs(seed):
        recipe = standard_augmentations(np.zeros(20_000, "float32"))
        batches = training_batches(pcm, labels, rows, front_end, recipe, 4, seed, pool=pool)
        assert len(batches) == 2
        return [[(f.numpy(), y.numpy()) for f, y in batches] for _ in range(2)]

    (first, second), again, other = epochs(1), epochs(1), epochs(2)
    features, targets = first[0]
    assert features.shape == (4, 98, 40) and targets.shape == (4, len(LABELS))
    for epoch in (first, second):
        seen = np.concatenate([y for _, y in epoch]).argmax(1)
        assert sorted(seen) == sorted(labels[rows])
    assert np.array_equal(features, again[0][0][0]) and np.array_equal(second[0][0], again[1][0][0])
    assert not np.array_equal(features, second[0][0]) and not np.array_equal(features, other[0][0][0])


def test_augmentations_are_options(clips):
    pcm = np.round(clips * 32_768).astype("int16")
    batches = training_batches(
        pcm, np.arange(40), np.arange(40), FrontEnd("log_mel", [0.0] * 40, [1.0] * 40), (), 40, classes=50
    )
    features, targets = next(iter(batches))
    plain = log_mel(pcm[targets.numpy().argmax(1)] / np.float32(32_768)).numpy()
    assert targets.shape == (40, 50)
    seen = features.numpy() != 0
    np.testing.assert_allclose(features.numpy()[seen], plain[seen], atol=1e-3)
    assert seen.mean() > 0.6, "without augmentations only SpecAugment is left"
