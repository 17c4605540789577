"""Clips stretched in time and moved in pitch, too slow to be made while a network trains: copies that are stored."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kws.audio import CLIP_SAMPLES, SAMPLE_RATE, read_clips


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
