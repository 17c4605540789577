"""Several sounds in a clip of any length: the baseline of DCASE 2019 task 2, from the parts of this course."""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import soundfile
import tensorflow as tf
from sklearn.preprocessing import MultiLabelBinarizer
from tqdm import tqdm

from kws.audio import files_by_name, read_clip, same_name
from kws.inference import load_model, named_clips, path_bytes, predict_clips
from kws.infra.backend import keras
from kws.infra.experiments import cached_row
from kws.infra.files import (
    CourseError,
    check_number,
    describe_differences,
    exclusive_write,
    file_digest,
    fingerprint,
    read_csv,
    read_json,
    remove,
    write_csv,
    write_json,
)
from kws.infra.resume import Run, checkpoint_manager, truncate_history, usual_callbacks
from kws.infra.runs import warm_start
from kws.metrics import lwlrap
from kws.models import norm_relu
from kws.preprocess import mel_matrix

layers = keras.layers


class FrameSettings(NamedTuple):
    """How clips become pictures: log-mel spectrograms, cut into windows. Frequencies in Hz, times in seconds."""

    sample_rate: int = 44_100
    frame: float = 0.025
    hop: float = 0.010
    bands: int = 96
    low: float = 20.0
    high: float = 20_000.0
    offset: float = 0.001
    window: float = 1.0
    every: float = 0.5

    def check(self) -> FrameSettings:
        """These settings. CourseError where no picture could be made with them."""
        for name, value in self._asdict().items():
            if not 0 <= value < math.inf or value == 0 and name not in ("low", "offset"):
                raise CourseError(f"{name}={value}: more than 0 is wanted")
        if min(self.hop_samples, self.step, self.frames, self.frame_samples) < 1:
            raise CourseError(
                f"frame={self.frame}, hop={self.hop}, every={self.every}, window={self.window}: shorter than a sample or a frame"
            )
        nyquist = self.sample_rate / 2
        if self.high > nyquist or self.low >= self.high:
            raise CourseError(
                f"low={self.low:g} high={self.high:g}: sound of {self.sample_rate:,} Hz has frequencies up to {nyquist:,g} Hz. "
                f"Set high={nyquist:g} or less, and low below it"
            )
        if self.bands > self.fft_size // 2 or not self.mel().any(axis=0).all():
            raise CourseError(
                f"bands={self.bands}, frame={self.frame}: some bands lie between two frequencies, which are "
                f"{self.sample_rate / self.fft_size:.0f} Hz apart, and never change. Set fewer bands, or a longer frame"
            )
        return self

    @property
    def frame_samples(self) -> int:
        return round(self.frame * self.sample_rate)

    @property
    def fft_size(self) -> int:
        """The next power of 2."""
        return 2 ** max(0, self.frame_samples - 1).bit_length()

    def mel(self) -> np.ndarray:
        """The filter bank: float32 [frequencies, bands]."""
        mel = {"n_mels": self.bands, "fmin": self.low, "fmax": self.high, "htk": True, "norm": None}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Empty filters")  # `check` tells of them
            return mel_matrix(self.sample_rate, self.fft_size, **mel)

    @property
    def hop_samples(self) -> int:
        return round(self.hop * self.sample_rate)

    @property
    def frames(self) -> int:
        return round(self.window / self.hop)

    @property
    def step(self) -> int:
        return round(self.every / self.hop)

    def count(self, samples: int) -> int:
        """How many windows a clip of so many samples has; the last one may reach beyond its end."""
        beyond = samples - self.frames * self.hop_samples
        return 1 + max(0, math.ceil(beyond / (self.step * self.hop_samples)))


BASELINE = FrameSettings()


def split_labels(text: str) -> list[str]:
    """The labels in a cell of a table: commas between them, maybe spaces, too."""
    return [same_name(label.strip()) for label in text.split(",") if label.strip()]


def class_list(path: str | Path) -> list[str]:
    """Names of the classes: the columns of a sample submission in their order, or the labels of a training CSV, sorted."""
    table = read_csv(path, ("fname",), text=True)
    if "labels" in table:
        names = sorted({label for labels in table.labels for label in split_labels(labels)})
    else:
        names = [same_name(name) for name in table if name not in ("fname", "")]
    if not names:
        raise CourseError(f"{path}: no classes. It needs a column for each, or a column labels")
    if len(set(names)) < len(names):
        raise CourseError(
            f"{path}: {max(names, key=names.count)} is the name of two classes. Delete one of them"
        )
    return names


def read_tags(
    path: str | Path, folder: str | Path, classes: Sequence[str], windows: FrameSettings = BASELINE
) -> pd.DataFrame:
    """Clips of a CSV (fname, labels with commas between): DataFrame of fname, path, labels (a list), windows (how many).

    CourseError names the first line with an unknown label, without labels, or with a clip that stands in another line, is not
    in the folder or cannot be read.
    """
    windows.check()
    table, lines, counts = read_csv(path, ("fname", "labels"), text=True), {}, []
    labels, paths = table.labels.map(split_labels), [*map(files_by_name(folder), table.fname)]
    bar = {"desc": Path(path).name, "unit": "clip", "mininterval": 1, "delay": 1}
    rows = tqdm(zip(table.fname, labels, paths), total=len(table), **bar)
    for line, (name, own, clip) in zip(table.attrs["lines"], rows):
        where = f"{path}, line {line}: {name}"
        if clip in lines:
            raise CourseError(f"{where} stands in line {lines[clip]} already. Delete one of them")
        if not own:
            raise CourseError(f"{where} has no labels. Add some, or delete the line")
        if unknown := set(own) - set(classes):
            raise CourseError(
                f"{where} has the label {', '.join(sorted(unknown))!r}, none of the {len(classes)} classes"
            )
        if not clip.is_file():
            raise CourseError(f"{where} is not in {folder}. Delete the line, or name another folder")
        try:
            info = soundfile.info(clip)
        except (soundfile.SoundFileError, UnicodeError) as error:
            raise CourseError(
                f"{where} cannot be read ({error}). Delete the line, or get the file again"
            ) from error
        if (info.samplerate, info.channels) != (windows.sample_rate, 1):
            found = f"{info.samplerate:,} Hz, {info.channels} channel(s)"
            raise CourseError(f"{where} has {found}; wanted {windows.sample_rate:,} Hz, 1 channel")
        counts.append(windows.count(info.frames))
        lines[clip] = line
    if not counts:
        raise CourseError(f"{path}: no clips")
    return pd.DataFrame(
        {"fname": table.fname, "path": [str(clip) for clip in paths], "labels": labels, "windows": counts}
    )


def targets_of(clips: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Labels of clips as zeros and ones: float32 [n, classes]."""
    return MultiLabelBinarizer(classes=classes).fit_transform(clips.labels).astype("float32")


def whole_windows(pcm: np.ndarray, windows: FrameSettings = BASELINE) -> np.ndarray:
    """PCM [n] with zeros after its end, up to where its last window ends."""
    frames = windows.frames + windows.step * (windows.count(len(pcm)) - 1)
    return np.pad(pcm, (0, frames * windows.hop_samples - len(pcm)))


def log_mel_windows(pcm: tf.Tensor, windows: FrameSettings = BASELINE) -> tf.Tensor:
    """PCM float32 [n] of whole windows -> log(mel + offset) of its magnitude: float32 [windows, frames, bands]."""
    w, frame = windows, windows.frame_samples
    pcm = tf.pad(pcm, [[0, max(0, frame - w.hop_samples)]])
    magnitude = tf.abs(tf.signal.stft(pcm, frame, w.hop_samples, w.fft_size))  # Hann
    pictures = tf.signal.frame(
        tf.math.log(tf.maximum(magnitude @ w.mel() + w.offset, 1e-12)), w.frames, w.step, axis=0
    )
    return tf.ensure_shape(pictures, [None, w.frames, w.bands])


def clip_reader(windows: FrameSettings = BASELINE) -> Callable:
    """Function for the `map` of a Dataset: path, anything -> windows [windows, frames, bands], readable, anything."""

    def read(path):
        try:
            name = path.decode("utf-8", "surrogateescape")
            pcm, readable = read_clip(name, samples=-1, sample_rate=windows.sample_rate), True
        except CourseError:
            pcm, readable = np.zeros(1, "float32"), False
        return whole_windows(pcm, windows), readable

    def load(path, *more):
        pcm, readable = tf.numpy_function(read, [path], (tf.float32, tf.bool))
        pictures = log_mel_windows(tf.ensure_shape(pcm, [None]), windows)
        return pictures, tf.ensure_shape(readable, []), *more

    return load


def clip_batches(
    paths: Sequence[str | Path], batch_size: int = 16, windows: FrameSettings = BASELINE
) -> tf.data.Dataset:
    """Dataset of (windows, ragged [batch, windows, frames, bands], readable [batch]) of wav files, in order."""
    paths = tf.data.Dataset.from_tensor_slices(path_bytes(paths))
    return paths.map(clip_reader(windows), num_parallel_calls=2).ragged_batch(batch_size).prefetch(2)


def tag_batches(
    clips: pd.DataFrame,
    classes: Sequence[str],
    windows: FrameSettings = BASELINE,
    batch_size: int = 64,
    seed: int = 0,
    first_epoch: int = 0,
    pool: int = 2_000,
) -> tf.data.Dataset:
    """Endless Dataset of (windows [batch, frames, bands], labels [batch, classes]), in each epoch in another order.

    `clips` is what `read_tags` returns; `pool` windows are in memory and shuffled, and where these are all there are, they are
    computed once; `first_epoch` epochs are left out.
    """
    check_number("batch_size", batch_size, 1)
    check_number("pool", pool, 1)
    paths, targets = path_bytes(clips.path), targets_of(clips, classes)
    load = clip_reader(windows)

    def with_labels(pictures, readable, target):
        count = tf.shape(pictures)[0] * tf.cast(readable, tf.int32)
        return pictures[:count], tf.repeat(target[None], count, axis=0)

    def mixed(seed, *values):
        order = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(values[0])[0]), [seed, seed])
        return [tf.gather(value, order) for value in values]

    def windows_of(*values):
        each = tf.data.Dataset.from_tensor_slices(values).map(load, num_parallel_calls=2)
        return each.map(with_labels).unbatch().batch(pool)

    def epoch(seed):
        pools = windows_of(*mixed(seed, paths, targets))
        return pools.map(lambda *values: tuple(mixed(seed, *values))).unbatch().batch(batch_size)

    def epoch_in_memory(seed):
        return tf.data.Dataset.from_tensor_slices(tuple(mixed(seed, *everything))).batch(batch_size)

    fits = clips.windows.sum() <= pool
    everything = next(iter(windows_of(paths, targets)), None) if fits else None
    epochs = tf.data.Dataset.random(seed).skip(first_epoch)
    return epochs.flat_map(epoch if everything is None else epoch_in_memory).prefetch(2)


MOBILENET = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


def mobilenet_v1(
    classes: int,
    shape: tuple[int, int] = (100, 96),
    width: float = 1.0,
    pool: str = "mean",
    dropout: float = 0.0,
) -> keras.Model:
    """MobileNet v1 on pictures [n, frames, bands]; logits [n, classes]. `dropout` is the share that is left out.

    Layers are called conv0, depthwise1, pointwise1, ... logits. Source: the baseline of DCASE 2019 task 2.
    """
    check_number("width", width, 0)
    check_number("dropout", dropout, 0, 1)
    pools = {"mean": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}
    if pool not in pools:
        raise CourseError(f"pool={pool}: there are {', '.join(pools)}")
    picture = keras.Input(shape)

    def norm(layer, x):
        return norm_relu(layer(x), f"{layer.name}_norm")

    def wide(n):
        return max(1, round(width * n))

    x = layers.Reshape((*shape, 1))(picture)
    x = norm(layers.Conv2D(wide(16), 3, padding="same", use_bias=False, name="conv0"), x)
    for i, (filters, stride) in enumerate(MOBILENET, 1):
        same = {"padding": "same", "use_bias": False}
        x = norm(layers.DepthwiseConv2D(3, strides=stride, name=f"depthwise{i}", **same), x)
        x = norm(layers.Conv2D(wide(filters), 1, name=f"pointwise{i}", **same), x)
    x = layers.Dropout(dropout)(pools[pool]()(x))
    return keras.Model(picture, layers.Dense(classes, name="logits")(x), name="mobilenet_v1")


def read_settings(checkpoint: str | Path) -> dict[str, Any]:
    """Settings of the training that a checkpoint comes from, with its Windows. CourseError where they are not beside it."""
    path = Path(checkpoint).parent / "settings.json"
    if not path.exists():
        raise CourseError(f"{path}: the settings of {Path(checkpoint).name} must lie beside it")
    settings = read_json(path)
    try:
        return settings | {"classes": settings["classes"], "windows": FrameSettings(**settings["windows"])}
    except (KeyError, TypeError) as error:
        raise CourseError(f"{path}: not the settings of a tagger ({error}). Train it again") from error


def warm_start_tags(
    network: keras.Model,
    classes: Sequence[str],
    start: str | Path,
    include: Sequence[str] = ("",),
    exclude: Sequence[str] = (),
) -> list[str]:
    """`warm_start` from a checkpoint; the last layer is left out, with a message, where its classes are others."""
    trained = read_settings(start)["classes"]
    if trained != list(classes):
        print(
            f"{start} has {len(trained)} classes, this training {len(classes)}, not the same: its layer logits is left out"
        )
        exclude = (*exclude, "logits")
    return warm_start(network, load_model(start), include, exclude)


def compile_tags(
    network: keras.Model,
    steps: int,
    learning_rate: float = 1e-3,
    decay: float = 0.0,
    decay_epochs: float = 2.5,
    smoothing: float = 0.0,
) -> keras.Model:
    """Compile a network for labels [n, classes]: Adam, rate multiplied by `decay` (0: never) every `decay_epochs` of `steps`."""
    check_number("decay", decay, 0)
    check_number("label smoothing", smoothing, 0, 1)
    if not 0 < decay_epochs < math.inf:
        raise CourseError(f"decay_epochs={decay_epochs}: more than 0 is wanted")
    rate = keras.optimizers.schedules.ExponentialDecay(
        learning_rate, decay_epochs * steps, decay or 1.0, staircase=True
    )
    loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
    network.compile(keras.optimizers.Adam(rate), loss)
    return network


def clips_hash(clips: pd.DataFrame) -> str:
    """Twelve hex digits that change when the names, labels or lengths of the clips do, or one is recorded anew."""
    states = [(file.st_size, file.st_mtime_ns) for file in map(os.stat, clips.path)]
    return fingerprint(clips[["fname", "labels", "windows"]].to_csv(index=False), states)


def train_tags(
    run: str | Path,
    clips: pd.DataFrame,
    classes: Sequence[str],
    epochs: int,
    seed: int = 0,
    windows: FrameSettings = BASELINE,
    model: dict | None = None,
    recipe: dict | None = None,
    batch_size: int = 64,
    start: str | Path | None = None,
    include: Sequence[str] = ("",),
    exclude: Sequence[str] = (),
    every: int = 1,
    resume: bool = True,
) -> Path:
    """Train MobileNet on the clips of `read_tags`; returns the path of the last checkpoint, `run`/epoch-<number>.keras.

    Also writes settings.json, history.csv and TensorBoard's logs to the folder `run`. Interrupted, or asked for more epochs, it
    goes on after the last whole one.

    Parameters
    ----------
    model : arguments of `mobilenet_v1` (width, pool, dropout)
    recipe : arguments of `compile_tags` (learning_rate, decay, decay_epochs, smoothing)
    start : checkpoint to begin with
    include : texts in the names of layers to take from it
    exclude : texts in the names of layers not to take from it
    every : epochs from one checkpoint to the next; the last epoch always leaves one
    resume : False deletes what is in `run`

    Raises
    ------
    CourseError: `run` has a training with other settings, or a number is out of range.
    """
    run, model, recipe = Path(run), model or {}, recipe or {}
    windows.check()
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 1), ("every", every, 1)):
        check_number(name, value, least)
    check_number("seed", seed, 0, 2**32)
    settings = {
        "classes": list(classes),
        "clips": clips_hash(clips),
        "seed": seed,
        "windows": windows._asdict(),
        "model": model,
        "recipe": recipe,
        "batch_size": batch_size,
        "start": start and "/".join(Path(start).parts[-2:]),
        "start_digest": start and file_digest(start),
        "include": list(include),
        "exclude": list(exclude),
    }
    with exclusive_write(run):
        if not resume:
            remove(run)
        run.mkdir(parents=True, exist_ok=True)
        note = run / "settings.json"
        if note.exists() and (differences := describe_differences(read_json(note), settings)):
            raise CourseError(
                f"{run} has another training: {differences}. Name another folder, or do not resume"
            )
        keras.utils.set_random_seed(seed)
        network = mobilenet_v1(len(classes), (windows.frames, windows.bands), **model)
        steps = math.ceil(clips.windows.sum() / batch_size)
        compile_tags(network, steps, **recipe)
        if start:
            warm_start_tags(network, classes, start, include, exclude)
        write_json(note, settings)
        progress = Run(run, run / "logs/training", checkpoint_manager(network, run / "state"), seed)
        bare = keras.Model(network.inputs, network.outputs, name=network.name)
        truncate_history(progress.log, progress.epoch)

        def keep(epoch, logs):
            if np.isfinite(logs["loss"]) and ((epoch + 1) % every == 0 or epoch + 1 == epochs):
                bare.save(run / "part.keras")
                (run / "part.keras").replace(run / f"epoch-{epoch + 1:04}.keras")

        if progress.epoch < epochs:
            network.fit(
                tag_batches(clips, classes, windows, batch_size, seed, progress.epoch),
                steps_per_epoch=steps,
                initial_epoch=progress.epoch,
                epochs=epochs,
                verbose=0,
                shuffle=False,
                callbacks=[
                    keras.callbacks.LambdaCallback(on_epoch_end=keep),
                    *usual_callbacks(network, progress),
                ],
            )
        if not np.isfinite(pd.read_csv(progress.log).loss.iloc[-1]):
            raise FloatingPointError(f"{run}: the loss became NaN. Lower the learning rate")
        last = run / f"epoch-{epochs:04}.keras"
        if not last.exists():
            raise CourseError(
                f"{last}: the training has gone on and left no checkpoint there. Name another folder"
            )
        return last


def load_tagger(checkpoint: str | Path) -> Callable[[tf.RaggedTensor], np.ndarray]:
    """Function windows, ragged [clips, windows, frames, bands] -> scores [clips, classes] in [0, 1], means over the windows.

    CourseError where the checkpoint is no tagger, or none of the settings beside it.
    """
    settings, network = read_settings(checkpoint), load_model(checkpoint)
    windows = settings["windows"]
    wanted = [(None, windows.frames, windows.bands), (None, len(settings["classes"]))]
    if (found := [tensor.shape for tensor in (*network.inputs, *network.outputs)]) != wanted:
        raise CourseError(
            f"{checkpoint}: has the shapes {found}, its settings.json wants {wanted}. Train it again"
        )

    def predict(windows):
        scores = tf.sigmoid(network.predict(windows.values, batch_size=64, verbose=0))
        return tf.math.segment_mean(scores, windows.value_rowids()).numpy()

    return predict


def score_clips(checkpoint: str | Path, clips: pd.DataFrame, batch_size: int = 16) -> np.ndarray:
    """Scores of a checkpoint for clips of `read_tags`: float32 [n, classes]. The bar shows Lwlrap so far."""
    settings, predict, scores = read_settings(checkpoint), load_tagger(checkpoint), []
    truth = targets_of(clips, settings["classes"])
    with tqdm(total=len(clips), desc=Path(checkpoint).stem, unit="clip", mininterval=1, leave=False) as bar:
        for windows, readable in clip_batches(clips.path, batch_size, settings["windows"]):
            if not readable.numpy().all():
                raise CourseError(
                    f"{clips.path[len(scores) + int(np.argmin(readable))]}: can no longer be read"
                )
            scores.extend(predict(windows))
            bar.set_postfix(lwlrap=f"{lwlrap(truth[: len(scores)], scores)[0]:.3f}", refresh=False)
            bar.update(len(readable))
    return np.array(scores)


def checkpoints_of(run: str | Path) -> list[Path]:
    """Paths of the checkpoints in the folder of a training, oldest first. CourseError where there are none."""
    if checkpoints := sorted(Path(run).glob("epoch-*.keras")):
        return checkpoints
    raise CourseError(f"{run}: no checkpoints to evaluate. Train first")


def evaluate_tags(run: str | Path, clips: pd.DataFrame) -> pd.DataFrame:
    """Lwlrap of each checkpoint in the folder `run`, of all labels and of each class, on clips of `read_tags`: DataFrame.

    Kept in `run`/evaluations.csv; a checkpoint that stands there for the same clips is not evaluated again.
    """
    checkpoints, rows = checkpoints_of(run), []
    classes = read_settings(checkpoints[0])["classes"]
    truth, writer = (
        targets_of(clips, classes),
        tf.summary.create_file_writer(str(Path(run) / "logs/evaluation")),
    )

    def evaluated(checkpoint):
        scores, few = score_clips(checkpoint, clips), max(1, len(clips) // 20)
        (overall, own), (partial, _) = lwlrap(truth, scores), lwlrap(truth[:few], scores[:few])
        with writer.as_default(int(checkpoint.stem.removeprefix("epoch-"))):
            tf.summary.scalar("lwlrap", overall)
            tf.summary.scalar("lwlrap_of_the_first_5_percent", partial)
        of_classes = {f"Lwlrap({name})": value for name, value in zip(classes, own)}
        return {"clips": len(clips), "lwlrap": overall, "first 5 %": partial} | of_classes

    for checkpoint in checkpoints:
        key = {"checkpoint": checkpoint.stem, "manifest": clips_hash(clips)}
        rows.append(cached_row(Path(run) / "evaluations.csv", key, functools.partial(evaluated, checkpoint)))
    return pd.DataFrame(rows)


def write_tags(
    checkpoint: str | Path, folder: str | Path, sample: str | Path, target: str | Path, batch_size: int = 16
) -> tuple[pd.DataFrame, list[str]]:
    """Scores of a tagger's checkpoint for the clips in `folder` that a sample submission names, in its rows' and columns' order.

    Writes `target` (.csv); returns it as a DataFrame, and the paths that could not be read, whose rows are zeros. CourseError
    where the sample's classes are not those of the checkpoint.
    """
    settings, paths, classes = read_settings(checkpoint), named_clips(sample, folder), class_list(sample)
    rows, known = read_csv(sample, ("fname",), text=True), settings["classes"]
    if set(classes) != set(known):
        other = ", ".join(sorted(set(classes) ^ set(known)))
        raise CourseError(f"{sample}: its classes are not those of {checkpoint}: {other}")
    version = file_digest(checkpoint)
    scores, unreadable = predict_clips(
        load_tagger(checkpoint),
        paths,
        Path(f"{target}.npy"),
        version,
        len(known),
        batch_size,
        bad=None,
        batches=functools.partial(clip_batches, windows=settings["windows"]),
    )
    table = pd.DataFrame(scores, columns=known)[classes]
    table.columns = [name for name in rows if name not in ("fname", "")]  # written as they are there
    table.insert(0, "fname", rows.fname)
    write_csv(target, table)
    return table, unreadable


def parse_window(text: str) -> tuple[str, float]:
    """A number of FrameSettings from a text such as bands=64, as a pair for a dict. CourseError for any other text."""
    name, _, value = text.partition("=")
    if name not in FrameSettings._fields:
        raise CourseError(f"{name}: none of {', '.join(FrameSettings._fields)}")
    try:
        return name, type(FrameSettings._field_defaults[name])(value)
    except ValueError as error:
        raise CourseError(f"{text}: a number is expected after {name}=") from error
