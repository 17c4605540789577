"""What else can happen to a clip, beside the recipe of notebook 2: another voice, a room; and, too slow to be made while a
network trains and so stored as copies, stretched in time and moved in pitch."""

from __future__ import annotations

import numpy as np
import pandas as pd
import tensorflow as tf

from kws.audio import CLIP_SAMPLES, SAMPLE_RATE, read_clips

ROOM_SAMPLES = 8_000  # half a second


def overlap(
    pcm: tf.Tensor, seed: tuple[int, int], probability: float = 0.5, max_volume: float = 0.3
) -> tf.Tensor:
    """Lay another clip of the batch under each clip with a probability, at a volume up to `max_volume`. [n, 16,000], n > 1"""
    n = tf.shape(pcm)[0]
    seeds = tf.random.split(seed, 3)
    offset = tf.random.stateless_uniform([], seeds[0], 1, tf.maximum(n, 2), tf.int32)
    volume = tf.random.stateless_uniform([n, 1], seeds[1], 0, max_volume)
    volume *= tf.cast(tf.random.stateless_uniform([n, 1], seeds[2]) < probability, tf.float32)
    return pcm + volume * tf.roll(pcm, offset, axis=0)


def impulse_responses(
    n: int | tf.Tensor, seed: tuple[int, int], shortest: float = 0.1, longest: float = 0.5, wet: float = 0.5
) -> tf.Tensor:
    """`n` random rooms: [n, 8,000], a click followed by noise that falls by 60 dB in `shortest` to `longest` seconds.

    The noise has up to `wet` of the energy of the click.
    """
    seeds = tf.random.split(seed, 3)
    seconds = tf.random.stateless_uniform([n, 1], seeds[0], shortest, longest)
    time = tf.range(1, ROOM_SAMPLES, dtype=tf.float32) / SAMPLE_RATE
    tail = tf.random.stateless_normal([n, ROOM_SAMPLES - 1], seeds[1]) * 10 ** (-3 * time / seconds)
    energy = tf.random.stateless_uniform([n, 1], seeds[2], 0, wet)
    tail *= tf.sqrt(energy / tf.reduce_sum(tail**2, axis=1, keepdims=True))
    return tf.concat([tf.ones([n, 1]), tail], axis=1)


def reverberate(pcm: tf.Tensor, seed: tuple[int, int], **room: float) -> tf.Tensor:
    """Put each clip into a random room (options: `impulse_responses`); its power stays the same. [n, 16,000] -> [n, 16,000]"""
    size = [CLIP_SAMPLES + ROOM_SAMPLES]
    rooms = tf.signal.rfft(impulse_responses(tf.shape(pcm)[0], seed, **room), size)
    heard = tf.signal.irfft(tf.signal.rfft(pcm, size) * rooms, size)[:, :CLIP_SAMPLES]
    before, after = (tf.reduce_mean(tf.square(sound), axis=-1, keepdims=True) for sound in (pcm, heard))
    return heard * tf.sqrt(before / (after + 1e-12))


def stretch_and_pitch(clip: np.ndarray, rate: float = 1.0, semitones: float = 0.0) -> np.ndarray:
    """Play a clip faster (`rate` > 1) at the same pitch, and higher at the same speed: [16,000] -> [16,000].

    The middle stays in the middle. Source: the phase vocoder of librosa.effects.
    """
    import librosa

    if rate != 1:
        clip = librosa.effects.time_stretch(clip, rate=rate)
    if semitones:
        clip = librosa.effects.pitch_shift(clip, sr=SAMPLE_RATE, n_steps=semitones)
    missing = max(CLIP_SAMPLES - len(clip), 0)
    clip = np.pad(clip, (missing // 2, missing - missing // 2))
    first = (len(clip) - CLIP_SAMPLES) // 2
    return clip[first : first + CLIP_SAMPLES]


def with_stretched_copies(
    manifest: pd.DataFrame, seed: int = 0, rate: float = 0.15, semitones: float = 2.0
) -> pd.DataFrame:
    """The manifest, followed by a copy of each spoken training row, to be stretched and pitched at random.

    The new columns rate (1 - `rate` to 1 + `rate`) and semitones (up to `semitones` up or down) are obeyed by `read_stretched`.
    """
    rng = np.random.default_rng(seed)
    copies = manifest[(manifest.split == "train") & (manifest.speaker != "")]
    copies = copies.assign(
        rate=rng.uniform(1 - rate, 1 + rate, len(copies)).round(3),
        semitones=rng.uniform(-semitones, semitones, len(copies)).round(2),
    )
    return pd.concat([manifest.assign(rate=1.0, semitones=0.0), copies], ignore_index=True)


def read_stretched(rows: pd.DataFrame) -> np.ndarray:
    """PCM of some rows of the manifest: float32 [n, 16,000]; stretched and pitched where they have columns rate and semitones."""
    clips = read_clips(rows)
    if "rate" in rows:
        for clip, rate, semitones in zip(clips, rows.rate, rows.semitones):
            clip[:] = stretch_and_pitch(clip, rate, semitones)
    return clips
