"""Notebook 1: what the pictures show."""

import numpy as np

from kws.split import SAMPLE_RATE, write_wav
from kws.visualize import find_anomalies, log_mel_picture, log_spectrogram


def test_a_tone_is_where_it_belongs():
    tone = np.sin(2 * np.pi * 1_000 * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype("float32")
    picture = log_spectrogram(tone)
    assert picture.shape == (161, 101)
    assert picture[:, 50].argmax() == 20  # 50 Hz a row
    assert -7 < picture[20, 50] < 0  # dB relative to full scale
    assert np.allclose(log_spectrogram(np.zeros(SAMPLE_RATE, "float32")), -100)


def test_mel_picture_is_finite_for_silence():
    assert np.isfinite(log_mel_picture(np.zeros(SAMPLE_RATE, "float32"))).all()


def test_the_odd_clip_is_found(manifest, tmp_path):
    some = manifest[manifest.speaker != ""].head(40).reset_index(drop=True)
    crackle = 0.9999 * np.sign(np.random.default_rng(0).standard_normal(SAMPLE_RATE))
    crackle *= np.arange(SAMPLE_RATE) // 1_600 % 2  # on and off, 100 ms each
    write_wav(tmp_path / "odd.wav", crackle)
    some.loc[7, "path"] = str(tmp_path / "odd.wav")
    found = find_anomalies(some)
    assert found.oddity.idxmax() == 7
    assert found.clipped[7] > 0.4 and found.clipped.drop(7).max() < 0.1
    assert len(found) == 40
