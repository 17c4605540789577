"""A model that comes with the package, and what it hears in a sound file. Needs LiteRT, not TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr

from kws.audio import CLIP_SAMPLES, SAMPLE_RATE, as_text
from kws.infra.files import CourseError, quiet_stderr
from kws.pi import load_labels, load_litert

SHIPPED = Path(__file__).with_name("models_data")


class Pretrained(NamedTuple):
    """A LiteRT model that is ready: `predict` takes float32 [16,000] in [-1, 1] and gives a probability for each label."""

    predict: Callable[[np.ndarray], np.ndarray]
    labels: list[str]
    path: Path
    card: dict[str, Any]


def shipped_models() -> list[str]:
    """Names of the models in the package; the default one first."""
    default = (SHIPPED / "default.txt").read_text(encoding="utf-8").strip()
    return sorted(
        (path.parent.name for path in SHIPPED.glob("*/card.json")), key=lambda name: name != default
    )


def load_pretrained(name: str = "") -> Pretrained:
    """The model that comes with the package, or another one of `shipped_models()`.

    >>> model = load_pretrained()
    >>> model.labels[:3]
    ['silence', 'unknown', 'yes']
    >>> top(model, np.zeros(16_000, "float32"))[0][0]
    'silence'
    """
    names = shipped_models()
    if name and name not in names:
        raise CourseError(f"{name}: no such model in the package. There are {', '.join(names)}")
    folder = SHIPPED / (name or names[0])
    model = open_model(folder / "model.tflite")
    return model._replace(card=json.loads((folder / "card.json").read_text(encoding="utf-8")))


def open_model(path: str | Path) -> Pretrained:
    """A .tflite file with its labels.txt beside it. CourseError where one is missing or is something else."""
    path = Path(path)
    labels = path.with_name("labels.txt")
    if path.suffix != ".tflite":
        raise CourseError(f"{path}: a .tflite file is wanted. kws freeze writes it")
    for file in (path, labels):
        if not file.is_file():
            raise CourseError(f"{file}: there is no such file")
    try:
        with quiet_stderr():
            predict = load_litert(path)
        names = load_labels(labels, len(predict(np.zeros(CLIP_SAMPLES, "float32"))))
    except ValueError as error:
        raise CourseError(str(error)) from error
    return Pretrained(predict, names, path, {})


def top(model: Pretrained, clip: np.ndarray, count: int = 3) -> list[tuple[str, float]]:
    """The most probable labels of a second of sound, float32 [16,000], with their probabilities."""
    probabilities = model.predict(np.asarray(clip, "float32"))
    best = np.argsort(-probabilities, kind="stable")[:count]
    return [(model.labels[i], float(probabilities[i])) for i in best]


def read_sound(path: str | Path) -> np.ndarray:
    """A whole sound file of any rate and number of channels, in a format that soundfile reads: float32 [n], 16 kHz, mono."""
    if not Path(path).is_file():
        raise CourseError(f"{as_text(path)}: there is no such file")
    try:
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError, UnicodeError) as error:
        raise CourseError(
            f"{as_text(path)}: cannot be read ({as_text(str(error))}). Convert it to wav, flac, ogg or mp3"
        ) from error
    mono = sound.mean(1)
    if not np.isfinite(mono).all():
        raise CourseError(f"{as_text(path)}: holds what is not a number. Record it again")
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    return np.clip(mono, -1, 1).astype("float32")


def loudest_second(sound: np.ndarray) -> tuple[int, np.ndarray]:
    """Where the loudest second of a sound begins (sample), and that second: float32 [16,000], zeros after a short sound's end.

    >>> sound = np.zeros(48_000, "float32")
    >>> sound[20_000:24_000] = 0.5
    >>> start, clip = loudest_second(sound)
    >>> start, clip.shape
    (14000, (16000,))
    """
    if len(sound) <= CLIP_SAMPLES:
        return 0, np.pad(np.asarray(sound, "float32"), (0, CLIP_SAMPLES - len(sound)))
    energy = np.cumsum(np.concatenate([[0.0], np.square(sound, dtype="float64")]))
    windows = energy[CLIP_SAMPLES:] - energy[:-CLIP_SAMPLES]
    best = np.flatnonzero(windows >= windows.max() * (1 - 1e-9))
    start = int(best[len(best) // 2])  # a word alone is in the middle of its second
    return start, np.asarray(sound[start : start + CLIP_SAMPLES], "float32")
