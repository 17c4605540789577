"""Notebook 1: what the pictures show, what is cut, what is listed."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from kws import visualize
from kws.audio import SAMPLE_RATE, write_wav
from kws.infra.files import CourseError, part_of
from kws.preprocess import log_mel
from kws.visualize import (
    describe_clips,
    describe_corpus,
    find_anomalies,
    formants,
    hiss_and_voice,
    list_anomalies,
    log_mel_picture,
    log_spectrogram,
    speech_mask,
    speech_probability,
)

TIME = np.arange(SAMPLE_RATE) / SAMPLE_RATE
TONE = np.sin(2 * np.pi * 1_000 * TIME).astype("float32")
SILENCE = np.zeros(SAMPLE_RATE, "float32")


@pytest.fixture
def spoken(manifest):
    return manifest[(manifest.speaker != "") & (manifest.split == "train")].reset_index(drop=True)


@pytest.fixture
def spoilt(spoken, tmp_path):
    """Sixty clips; of these 3 is empty, 7 crackles at full scale, 11 has a constant voltage."""
    some = spoken.head(60).copy()
    crackle = 0.9999 * np.sign(np.random.default_rng(0).standard_normal(SAMPLE_RATE))
    crackle *= np.arange(SAMPLE_RATE) // 1_600 % 2  # on and off, 100 ms each
    for row, clip in ((3, SILENCE), (7, crackle), (11, 0.1 * TONE + 0.2)):
        write_wav(tmp_path / f"{row}.wav", clip)
        some.loc[row, "path"] = str(tmp_path / f"{row}.wav")
    return some


def test_a_tone_is_where_it_belongs():
    picture = log_spectrogram(TONE)
    assert picture.shape == (161, 101)
    assert picture[:, 50].argmax() == 20  # 50 Hz a row
    assert -7 < picture[20, 50] < 0  # dB relative to full scale
    assert np.allclose(log_spectrogram(SILENCE), -100)


def test_many_clips_at_once_are_the_same_as_one_by_one(clips):
    for function in (log_spectrogram, log_mel_picture):
        assert np.allclose(function(clips[:3]), [function(clip) for clip in clips[:3]], atol=1e-3)
    assert np.allclose(
        describe_clips(clips), np.concatenate([describe_clips(c[None]) for c in clips]), atol=1e-3
    )


def test_mel_picture_is_the_log_mel_of_the_models(clips):
    ours = np.asarray(log_mel(clips[:5])).transpose(0, 2, 1) * 10 / np.log(10)
    assert np.allclose(log_mel_picture(clips[:5]), ours, atol=1e-2)


def test_mel_picture_is_finite_for_silence():
    assert np.allclose(log_mel_picture(SILENCE), -60)


def test_facts_of_a_clip():
    peak, rms, offset, clipped = describe_clips(np.stack([SILENCE, TONE, TONE * 0 + 0.25]))[:, 80:].T
    assert np.allclose(peak, [0, 1, 0.25], atol=1e-3) and np.allclose(rms, [0, np.sqrt(0.5), 0.25], atol=1e-3)
    assert np.allclose(offset, [0, 0, 0.25], atol=1e-3) and clipped[0] == clipped[2] == 0 < clipped[1]


def test_speech_is_kept_and_silence_is_cut(clips):
    assert not speech_mask(SILENCE).any()
    assert not speech_mask(0.05 * np.random.default_rng(0).standard_normal(SAMPLE_RATE)).any()
    shares = np.array([speech_mask(clip).mean() for clip in clips[:20]])
    assert (shares > 0.2).mean() > 0.8 and shares.mean() < 0.95
    for clip in clips[:5]:  # what is cut is quieter than what is kept
        mask = speech_mask(clip)
        if 0 < mask.mean() < 1:
            assert (clip[mask] ** 2).mean() > (clip[~mask] ** 2).mean()


def test_a_clip_is_judged_alone(clips):
    first = speech_probability(clips[0])
    speech_probability(clips[1])
    assert first.shape == (32,) and np.array_equal(first, speech_probability(clips[0]))
    assert speech_probability(clips[0][:8_000]).shape == (16,) and len(speech_mask(clips[0][:8_000])) == 8_000


def test_hiss_and_voice_are_told_apart():
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE)
    above = noise - scipy.ndimage.uniform_filter1d(noise, 4)  # weak below 4 kHz
    hiss, voice = hiss_and_voice(np.where(TIME < 0.5, 0.3 * TONE, 0.3 * above) * (np.abs(TIME - 0.5) > 0.1))
    assert voice[5:35].all() and hiss[65:95].all() and not (hiss | voice)[45:55].any()
    assert not (hiss & voice).any()
    assert not any(mask.any() for mask in hiss_and_voice(SILENCE))


def test_formants_are_where_a_filter_has_its_resonances():
    pulses = np.zeros(SAMPLE_RATE)
    pulses[::160] = 1  # a voice of 100 Hz
    for hertz in (700, 1_200, 2_500):
        pole = np.exp((-np.pi * 80 + 2j * np.pi * hertz) / SAMPLE_RATE)
        pulses = scipy.signal.lfilter([1], np.poly([pole, pole.conj()]).real, pulses)
    found = formants((pulses / np.abs(pulses).max()).astype("float32"))
    assert found.shape == (101, 3)
    assert np.allclose(np.nanmedian(found, axis=0), [700, 1_200, 2_500], rtol=0.05)
    assert np.isnan(formants(SILENCE)).all()


def test_descriptions_go_on_where_they_were_stopped(spoken, tmp_path, monkeypatch):
    whole = describe_corpus(spoken, tmp_path / ".")
    assert whole.shape == (len(spoken), 84)
    (path,) = tmp_path.glob("descriptions-*.f32")
    part, rows = part_of(path), 4 * 84
    path.rename(part)
    part.write_bytes(part.read_bytes()[: 150 * rows + 7])  # stopped in the middle of a row
    described = []
    monkeypatch.setattr(
        visualize, "describe_clips", lambda pcm: described.append(len(pcm)) or describe_clips(pcm)
    )
    assert np.allclose(describe_corpus(spoken, tmp_path), whole, atol=1e-3)
    assert sum(described) == len(spoken) - 150 and not part.exists()
    described.clear()
    assert np.array_equal(describe_corpus(spoken, tmp_path), np.fromfile(path, "float32").reshape(-1, 84))
    assert not described, "described again what was there"
    describe_corpus(spoken.head(30), tmp_path)
    assert not path.exists() and len(list(tmp_path.glob("descriptions-*"))) == 1


def test_a_bad_recording_is_named_and_loses_nothing(spoken, tmp_path):
    (tmp_path / "bad.wav").write_text("no sound")
    spoken.loc[len(spoken) - 1, "path"] = str(tmp_path / "bad.wav")
    with pytest.raises(CourseError, match="bad.wav"):
        describe_corpus(spoken, tmp_path)
    (part,) = tmp_path.glob("descriptions-*")
    assert part.stat().st_size == (len(spoken) - 1) // 100 * 100 * 84 * 4


def test_anomalies_are_found_and_named(spoilt, tmp_path):
    found = find_anomalies(spoilt, describe_corpus(spoilt, tmp_path))
    assert len(found) == len(spoilt) and found.index.equals(spoilt.index)
    assert 7 in found.anomaly_score.nlargest(2).index
    assert found.clipped[7] > 0.4 and found.clipped.drop(7).max() < 0.1
    odd = list_anomalies(found)
    worst = odd.drop_duplicates("anomaly").set_index("anomaly").path
    assert worst[["empty", "clipped", "DC"]].tolist() == spoilt.path[[3, 7, 11]].tolist()
    assert spoilt.path[7] in set(odd[odd.anomaly == "far out"].path)
    assert (odd.severity > 1).all() and all(
        group.severity.is_monotonic_decreasing for _, group in odd.groupby("anomaly")
    )
