"""Two features of which one expects little for words: the spectrum of a whole clip, and the tempogram of music."""

from __future__ import annotations

import functools

import librosa
import numpy as np
import tensorflow as tf

FFT_BANDS = 160  # of 50 Hz each
TEMPO_LAGS = 64  # frames: up to 0.64 s


def fft_bands(pcm: tf.Tensor, floor: float = 1e-6) -> tf.Tensor:
    """Spectrum of the whole clip: PCM [n, 16,000] -> float32 [n, 160], log of the mean magnitude in bands of 50 Hz, no 0 Hz."""
    magnitude = tf.abs(tf.signal.rfft(pcm))[:, 1:]
    bands = tf.reshape(magnitude, [-1, FFT_BANDS, magnitude.shape[-1] // FFT_BANDS])
    return tf.math.log(tf.reduce_mean(bands, axis=-1) + floor)


def onset_strength(features: tf.Tensor) -> tf.Tensor:
    """How much the log-mel bins rise, on average: [n, frames, bins] -> [n, frames]."""
    rise = tf.nn.relu(features[:, 1:] - features[:, :-1])
    return tf.pad(tf.reduce_mean(rise, axis=-1), [[0, 0], [1, 0]])


@functools.cache
def ramp_matrix(frames: int) -> np.ndarray:
    """Pads a curve of some frames by 32 on each side, falling to zero in a straight line: float32 [frames, frames + 64]."""
    return np.pad(np.eye(frames), ((0, 0), (TEMPO_LAGS // 2,) * 2), "linear_ramp").astype("float32")


def autocorrelation(onset: tf.Tensor) -> tf.Tensor:
    """Local autocorrelation of an onset strength: [n, frames] -> float32 [n, frames, 64 lags], 1 at the highest peak.

    Source: librosa.feature.tempogram, with win_length=64.
    """
    frames = onset.shape[-1]
    windows = tf.gather(
        tf.matmul(onset, ramp_matrix(frames)), np.arange(frames)[:, None] + np.arange(TEMPO_LAGS), axis=1
    )
    hann = librosa.filters.get_window("hann", TEMPO_LAGS).astype("float32")
    power = tf.square(tf.abs(tf.signal.rfft(windows * hann, [2 * TEMPO_LAGS])))
    correlation = tf.signal.irfft(tf.cast(power, tf.complex64))[..., :TEMPO_LAGS]
    peak = tf.reduce_max(tf.abs(correlation), axis=-1, keepdims=True)
    return correlation / tf.maximum(peak, 1e-12)
