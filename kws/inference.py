"""From a model file and many clips to probabilities, in parts, gone on with after a stop; and recordings of many clips."""

from __future__ import annotations

import functools
import timeit
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import kws.models
import kws.preprocess
import kws.zoo  # noqa: F401  registers the layers that saved models are made of
from kws.audio import CLIP_SAMPLES, as_text, files_by_name, is_text, read_clip, to_float, visible_files
from kws.deploy import load_graph
from kws.infra.backend import keras
from kws.infra.cluster import run_each
from kws.infra.files import (
    CourseError,
    check_number,
    exclusive_write,
    file_fingerprint,
    fingerprint,
    is_made,
    part_of,
    read_csv,
    remove,
    write_json,
)
from kws.pi import load_litert
from kws.preprocess import read_noise
from kws.split import Place

Predictor = Callable[[np.ndarray], np.ndarray]


def load_model(path: str | Path) -> keras.Model:
    """A model saved by this course; Keras's safe mode is left on: one that brings code of its own is not opened.

    Raises
    ------
    CourseError: the file is not there, or is something else.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever a spoilt file makes Keras say
        reason = _first_line(error) if Path(path).suffix == ".keras" else "not a .keras file"
        reason = reason if Path(path).is_file() else "there is no such file"
        raise CourseError(
            f"{path}: no model to load ({reason}). Notebook 4_full_training.ipynb writes it"
        ) from error


def _first_line(error: Exception) -> str:
    """What an error says, without the pages that may follow."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def one_thread() -> None:
    """Let TensorFlow use one thread in this process; CourseError where it has computed something already."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise CourseError(
            "TensorFlow has been used in this process, with more threads: time the model in a new one"
        ) from error


def milliseconds(path: str | Path, runs: int = 30) -> float:
    """Median time of one clip through the model in a file, PCM to probabilities: milliseconds."""
    check_number("runs", runs, 1)
    model = load_model(path)
    call = tf.function(model, input_signature=[tf.TensorSpec([1, CLIP_SAMPLES], tf.float32)])
    clip = tf.zeros([1, CLIP_SAMPLES])
    call(clip)
    return 1e3 * float(np.median(timeit.repeat(lambda: call(clip), number=1, repeat=runs)))


def load_predictor(path: str | Path) -> Predictor:
    """Function of a model file (.keras, .pb or .tflite): PCM float32 [n, 16,000] -> probabilities [n, labels].

    It is tried on silence, so that a spoilt model is told before a long prediction.

    Raises
    ------
    CourseError: there is no such file, it is none of the three, or takes no clips.
    """
    path = Path(path)
    if not path.exists():
        notebook = "4_full_training" if path.suffix == ".keras" else "5_freeze_and_pi"
        raise CourseError(f"{path}: there is no such model. Notebook {notebook}.ipynb writes it")
    if path.suffix not in (".keras", ".pb", ".tflite"):
        raise CourseError(f"{path}: a model is a .keras, .pb or .tflite file")
    if path.suffix == ".keras":
        return load_clip_model(path).predict_on_batch
    predict = _one_by_one(path)
    check_predictor(predict, path)
    return predict


def load_clip_model(path: str | Path) -> keras.Model:
    """A model PCM [n, 16,000] -> probabilities [n, labels] from a .keras file. CourseError where it is something else."""
    model = load_model(path)
    if kinds := {tensor.dtype for tensor in model.inputs} - {"float32"}:
        raise CourseError(f"{path}: takes {', '.join(kinds)}, wanted float32")
    check_predictor(model.predict_on_batch, path)
    return model


def check_predictor(predict: Predictor, path: str | Path) -> None:
    """Try a function of clips, of the model in a file, on two seconds of silence.

    Raises
    ------
    CourseError: it takes no clips, or gives something else than a row of probabilities for each.
    """
    try:
        probabilities = predict(np.zeros((2, CLIP_SAMPLES), "float32"))
    except CourseError:
        raise
    except Exception as error:  # whatever a spoilt model makes its library say
        raise CourseError(
            f"{path}: does not take a clip of {CLIP_SAMPLES:,} samples ({_first_line(error)})"
        ) from error
    if not hasattr(probabilities, "shape"):
        raise CourseError(
            f"{path}: gives {len(probabilities)} results for a clip, where one row of probabilities is expected"
        )
    if probabilities.ndim != 2:
        raise CourseError(
            f"{path}: gives {probabilities.shape[1:]} for a clip, where one row of probabilities is expected"
        )
    if not np.isfinite(probabilities).all():
        raise CourseError(f"{path}: gives what is not a number for a clip of silence. Train it again")


def _one_by_one(path: Path) -> Predictor:
    """A .pb or .tflite file, which takes one clip at a time, as a function of many. CourseError where it is something else."""
    try:
        predict = load_graph(path) if path.suffix == ".pb" else load_litert(path)
    except CourseError:
        raise
    except ValueError as error:
        raise CourseError(str(error)) from error

    def predict_each(clips):
        try:
            return np.stack([predict(np.asarray(clip)) for clip in clips])
        except ValueError as error:
            raise CourseError(f"{path}: {_first_line(error).removeprefix(f'{path}: ')}") from error

    return predict_each


def test_clips(folder: str | Path) -> list[Path]:
    """Paths of the clips to predict, in the order of sample_submission.csv or by name. CourseError where there are none.

    `folder` is a corpus with test/audio, or a folder of wav files.
    """
    folder = Path(folder)
    audio, sample = folder / "test/audio", folder / "sample_submission.csv"
    if not audio.is_dir() and visible_files(folder, ".wav"):
        audio = folder
    clips = visible_files(audio, ".wav")
    if not clips:
        raise CourseError(
            f"{audio}: no clips to predict. Put one-second wav files there, for example the contest's"
        )
    for clip in [clip for clip in clips if not is_text(clip.name)]:
        print(f"{as_text(clip)}: a name that is no UTF-8, left out. Rename it")
        clips.remove(clip)
    return named_clips(sample, audio) if sample.exists() else clips


def named_clips(sample: str | Path, folder: str | Path) -> list[Path]:
    """Paths of the clips in `folder` that a sample submission names, in its order.

    Raises
    ------
    CourseError: a name is not one of a file, or stands there twice.
    """
    names = read_csv(sample, ("fname",), text=True).fname
    if outside := [name for name in names if Path(name).name != name or name in ("", "..") or "\\" in name]:
        raise CourseError(f"{sample}: {outside[0]!r} is not the name of a file in {folder}")
    paths = names.map(files_by_name(folder))
    if paths.duplicated().any():
        raise CourseError(f"{sample}: {names[paths.duplicated()].iloc[0]} stands there twice")
    return list(paths)


def path_bytes(paths: Sequence[str | Path]) -> list[bytes]:
    """Paths as TensorFlow takes them, also those that are no text."""
    return [str(path).encode("utf-8", "surrogateescape") for path in paths]


def read_batches(paths: Sequence[str | Path], batch_size: int = 256) -> tf.data.Dataset:
    """Dataset of (PCM [batch, 16,000], readable [batch]) of wav files, read in parallel, in order."""

    def read(paths):
        clips, readable = np.zeros((len(paths), CLIP_SAMPLES), "float32"), np.full(len(paths), True)
        for i, path in enumerate(paths):
            try:
                clips[i] = read_clip(path.decode("utf-8", "surrogateescape"))
            except CourseError:
                readable[i] = False
        return clips, readable

    def load(paths):
        clips, readable = tf.numpy_function(read, [paths], (tf.float32, tf.bool))
        return tf.ensure_shape(clips, [None, CLIP_SAMPLES]), tf.ensure_shape(readable, [None])

    batches = tf.data.Dataset.from_tensor_slices(path_bytes(paths)).batch(batch_size)
    return batches.map(load, num_parallel_calls=2).prefetch(2)


@functools.lru_cache(2)
def _loaded(path: str | Path, version: str) -> Predictor:
    """The predictor of a model file, loaded once in each process; another `version`, another model."""
    return load_predictor(path)


def _predict_part(folder, predict, version, classes, batch_size, batches, part):
    """Predict `part`, a pair of the first clip's number and paths, into a file in `folder`; returns how many."""
    first, paths = part
    is_path = isinstance(predict, (str, Path))
    predictor, name = (_loaded(predict, version), predict) if is_path else (predict, "the model")
    rows = np.full((len(paths), classes), np.nan, "float32")  # what stays so could not be read
    at = 0
    for clips, readable in batches(paths, batch_size):
        readable = np.asarray(readable)
        some = predictor(clips)
        if some.shape != (len(readable), classes):
            raise CourseError(f"{name}: {some.shape[-1]} outputs, there are {classes} labels")
        if spoilt := np.flatnonzero(readable & ~np.isfinite(some).all(1)).tolist():
            raise CourseError(f"{name}: gives what is not a number for {list(paths)[at + spoilt[0]]}")
        rows[at : at + len(some)][readable] = some[readable]
        at += len(some)
    path = Path(folder) / f"{first:09}.npy"
    unfinished = part_of(path, uuid.uuid4().hex)
    with open(unfinished, "wb") as file:
        np.save(file, rows)
    unfinished.replace(path)
    return len(paths)


def predict_clips(
    predict: Predictor | str | Path,
    paths: Sequence[str | Path],
    target: str | Path,
    version: str = "",
    classes: int = 12,
    batch_size: int = 256,
    bad: int | None = 0,
    batches: Callable[..., tf.data.Dataset] = read_batches,
    part: int = 2_048,
    client: Any = None,
) -> tuple[np.ndarray, list[str]]:
    """Probabilities of wav files: float32 [n, classes], kept in `target` (.npy), and the paths that could not be read.

    Parameters
    ----------
    predict : function PCM [n, 16,000] -> probabilities [n, classes], or the path of a model file
    version : names the model; with the same version and files an unfinished prediction is gone on with, a finished one read back
    bad : number of the label that unreadable clips get, with probability 1; None leaves them zeros
    batches : function (paths, batch size) -> Dataset of (what `predict` takes, readable [batch])
    part : clips that are kept together
    client : dask.distributed.Client whose workers predict the parts; `predict` is a path then, which they see, too

    Raises
    ------
    CourseError: there are no clips, or the model gives something else than `classes` numbers for one.
    """
    for name, value in (
        ("clips", len(paths)),
        ("classes", classes),
        ("batch_size", batch_size),
        ("part", part),
    ):
        check_number(name, value, 1)
    target = Path(target)
    parts, note = target.with_suffix(".parts"), target.with_suffix(".json")
    state = {"state": fingerprint(version, [file_fingerprint(path) for path in paths])}
    settings = state | {"part": part, "classes": classes}
    with exclusive_write(target):
        if not target.exists() or not is_made(note, state):
            if not is_made(parts / "settings.json", settings):
                remove(parts)
                parts.mkdir(parents=True)
                write_json(parts / "settings.json", settings)
            files = {at: parts / f"{at:09}.npy" for at in range(0, len(paths), part)}
            todo = [at for at, file in files.items() if not file.exists()]
            missing = sum(len(paths[at : at + part]) for at in todo)
            work = functools.partial(
                _predict_part, parts.resolve(), predict, version, classes, batch_size, batches
            )
            bar = {"desc": "predicting", "unit": "clip", "mininterval": 1}
            with tqdm(total=len(paths), initial=len(paths) - missing, **bar) as progress:
                for count in run_each(work, ((at, paths[at : at + part]) for at in todo), client):
                    progress.update(count)
            rows = np.concatenate([np.load(file) for file in files.values()])
            note.unlink(missing_ok=True)
            with open(part_of(target), "wb") as file:
                np.save(file, rows)
            part_of(target).replace(target)
            write_json(note, state)
        remove(parts)
    probabilities = np.load(target)
    unreadable = np.isnan(probabilities).any(1)
    probabilities[unreadable] = 0
    if bad is not None:
        probabilities[unreadable, bad] = 1
    return probabilities, [str(paths[i]) for i in np.flatnonzero(unreadable)]


# long recordings


def long_recording(
    clips: np.ndarray, noise: np.ndarray, every_ms: int = 4_000, volume: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, list[float]]:
    """One recording of clips [n, 16,000], one each `every_ms`, over noise [samples]; and the middle of each clip in ms."""
    rng = np.random.default_rng(seed)
    sound = volume * np.resize(noise, (len(clips) + 1) * every_ms * 16).astype("float32")
    middles = []
    for number, clip in enumerate(clips):
        start = 16 * (number * every_ms + int(rng.integers(1_000, every_ms - 1_000)))
        sound[start : start + CLIP_SAMPLES] += clip
        middles.append(start / 16 + 500)
    return np.clip(sound, -1, 1), middles


def split_recording(
    place: Place, pcm: Any, split: str, volume: float = 0.1, most: int | None = None, seed: int = 0
) -> tuple[np.ndarray, list[tuple[float, str]], list[tuple[float, str]]]:
    """A `long_recording` of spoken clips of a split over noise of the same split; its commands (ms, word); its other words."""
    manifest, noise = place.manifest, read_noise(place.folder, split)
    rows = np.flatnonzero((manifest.split == split) & (manifest.speaker != ""))
    rows = np.random.default_rng(seed).permutation(rows)[:most]
    sound, middles = long_recording(to_float(pcm[rows]), noise, volume=volume, seed=seed)
    said = list(zip(middles, manifest.label.iloc[rows], manifest.word.iloc[rows]))
    commands = [(ms, label) for ms, label, _ in said if label != "unknown"]
    return sound, commands, [(ms, word) for ms, label, word in said if label == "unknown"]
