"""Trainings that are kept: settings, data, `fit` and the loop by hand, on one device or several, stopped and resumed."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm import tqdm

from kws.audio import CLIP_SAMPLES, FULL_SCALE, check_wav, to_float, visible_files
from kws.inference import load_model
from kws.infra.backend import keras
from kws.infra.experiments import circumstances, read_rows
from kws.infra.files import (
    CourseError,
    exclusive_write,
    file_digest,
    is_made,
    remove,
    write_atomically,
    write_csv,
    write_json,
)
from kws.infra.resume import (
    Run,
    checkpoint_manager,
    run_folder,
    seed_dropout,
    truncate_history,
    usual_callbacks,
)
from kws.infra.store import load_cached, partial_sums, statistics_of
from kws.models import compile_model, label_numbers, macs, stored_features, with_front_end
from kws.preprocess import (
    FEATURES,
    FrontEnd,
    add_noise,
    gain,
    open_store,
    read_noise,
    shift,
    speed_perturb,
    standard_augmentations,
    store_path,
    training_batches,
)
from kws.split import Place, labels_of
from kws.stretch import reverberate
from kws.training import confusion_figure, draw_epoch, training_step
from kws.zoo import ZOO

IN_MEMORY = 2**30  # bytes: below, clips are unpacked once


class Data(NamedTuple):
    """What a training needs: batches(first_epoch) -> Dataset of (features, one-hot labels); val, such a pair; statistics."""

    batches: Callable[..., tf.data.Dataset]
    val: tuple[np.ndarray, np.ndarray]
    statistics: dict[str, list[float]]


def load_data(
    place: Place,
    feature: str,
    rows: np.ndarray,
    seed: int = 0,
    draw: Callable[..., np.ndarray] = draw_epoch,
    augmentations: Sequence[Callable] | None = None,
    masks: bool = True,
    labels: np.ndarray | None = None,
) -> Data:
    """Data of some training rows (numbers) of a Place, and of the validation rows.

    Training rows are drawn anew for each epoch by `draw(labels, words, rng)`. `labels` are integers in place of the manifest's.
    """
    manifest = place.manifest
    store, pcm = open_store(place, feature), open_store(place, "pcm")
    if pcm.nbytes < IN_MEMORY:
        pcm = load_cached(store_path(place, "pcm"), place.fingerprint)
    labels, words = label_numbers(manifest) if labels is None else labels, manifest.word.to_numpy(str)
    if augmentations is None:
        augmentations = standard_augmentations(read_noise(place.folder))
    batches = functools.partial(
        training_batches,
        pcm,
        labels,
        lambda rng: rows[draw(labels[rows], words[rows], rng)],
        FrontEnd(feature, **store.attrs["statistics"]),
        augmentations,
        seed=seed,
        classes=max(len(labels_of(manifest)), labels.max() + 1),
        masks=masks,
    )
    val = stored_features(store, manifest, (manifest.split == "val").to_numpy())
    return Data(batches, val, store.attrs["statistics"])


def random_data(feature: str, seed: int = 0, clips: int = 300, classes: int = 12) -> Data:
    """Data of random numbers in the same shapes, to try a training in seconds."""
    rng = np.random.default_rng(seed)
    pcm = rng.integers(-FULL_SCALE, FULL_SCALE - 1, (clips, CLIP_SAMPLES), "int16")
    features = pcm if feature == "pcm" else FEATURES[feature].compute(to_float(pcm)).numpy()
    statistics = statistics_of([partial_sums(features, np.full(clips, True))])
    labels, front_end = rng.integers(0, classes, clips), FrontEnd(feature, **statistics)
    batches = functools.partial(
        training_batches,
        pcm,
        labels,
        np.arange(clips),
        front_end,
        (),
        seed=seed,
        classes=classes,
        masks=False,
    )
    return Data(batches, (front_end(to_float(pcm[:100])).numpy(), np.eye(classes)[labels[:100]]), statistics)


def write_confusion(labels: np.ndarray, predicted: np.ndarray, run: Run, epoch: int) -> None:
    """Add a picture of the confusion matrix to the TensorBoard logs of a Run."""
    fig = confusion_figure(labels, predicted, run.names)
    fig.canvas.draw()
    with tf.summary.create_file_writer(str(run.board / "confusion")).as_default():
        tf.summary.image("confusion", np.asarray(fig.canvas.buffer_rgba())[None], epoch)
    plt.close(fig)


def fit_keras(network: keras.Model, data: Data, epochs: int, run: Run) -> None:
    """Train a compiled network with `fit`, from the epoch that the Run has reached; writes to its folder."""
    best_so_far = pd.read_csv(run.log).val_accuracy.max() if run.log.exists() else None

    def picture(epoch, logs=None):
        if epoch % 10 == 9:
            predicted = network.predict(data.val[0], verbose=0).argmax(1)
            write_confusion(data.val[1].argmax(1), predicted, run, epoch)

    best = keras.callbacks.ModelCheckpoint(
        str(run.folder / "best.weights.h5"),
        "val_accuracy",
        mode="max",
        save_best_only=True,
        save_weights_only=True,
        initial_value_threshold=best_so_far,
    )
    batches = data.batches(first_epoch=run.epoch)
    network.fit(
        batches.repeat(),
        steps_per_epoch=len(batches),
        initial_epoch=run.epoch,
        epochs=epochs,
        validation_data=data.val,
        verbose=0,
        shuffle=False,
        callbacks=[
            best,
            keras.callbacks.LambdaCallback(on_epoch_end=picture),
            *usual_callbacks(network, run),
        ],
    )


def fit_tensorflow(network: keras.Model, data: Data, epochs: int, run: Run) -> None:
    """What `fit_keras` does, with the loop of notebook 4; under a strategy for several devices each replica takes other batches.

    Each has batch averages of its own batches, so after an epoch their mean goes to all.
    """
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    first, history = run.epoch, read_rows(run.log)
    batches = data.batches(first_epoch=first)
    writer, labels = tf.summary.create_file_writer(str(run.board)), data.val[1].argmax(1)

    one = training_step(network, replicas)

    @tf.function
    def step(features, targets):
        loss, right = strategy.run(one, args=(features, targets))
        return strategy.reduce("SUM", loss, axis=None), strategy.reduce("MEAN", right, axis=None)

    @tf.function(reduce_retracing=True)
    def answer(features):
        return strategy.run(lambda features: network(features, training=False), args=(features,))

    averages = [variable for variable in network.non_trainable_variables if "float" in variable.dtype]

    @tf.function
    def mean_over_replicas():
        values = strategy.run(lambda: [tf.identity(variable) for variable in averages])
        return [strategy.reduce("MEAN", value, axis=None) for value in values]

    def share_of(context):
        return batches.repeat().shard(context.num_input_pipelines, context.input_pipeline_id)

    shared = iter(strategy.distribute_datasets_from_function(share_of))
    for epoch in tqdm(
        range(first, epochs), desc=network.name, initial=first, total=epochs, unit="epoch", mininterval=5
    ):
        start = time.perf_counter()
        seed_dropout(network, run.seed, epoch)
        steps = range(len(batches) // replicas)
        loss, accuracy = np.mean([[float(value) for value in step(*next(shared))] for _ in steps], axis=0)
        if replicas > 1:
            for variable, mean in zip(averages, mean_over_replicas()):
                variable.assign(mean)
        pieces = np.array_split(data.val[0].astype("float32"), -(-len(labels) // 256))
        logits = np.concatenate([strategy.experimental_local_results(answer(piece))[0] for piece in pieces])
        row = {
            "epoch": epoch,
            "accuracy": accuracy,
            "loss": loss,
            "seconds": time.perf_counter() - start,
            "val_accuracy": np.mean(logits.argmax(1) == labels),
            "val_loss": float(network.loss(data.val[1], logits)),
        }
        if row["val_accuracy"] > max((old["val_accuracy"] for old in history), default=-1):
            network.save_weights(run.folder / "best.weights.h5", overwrite=True)
        history.append(row)
        write_csv(run.log, pd.DataFrame(history))
        with writer.as_default():
            for key, value in row.items():
                tf.summary.scalar(f"epoch_{key}", value, epoch)
        if epoch % 10 == 9:
            write_confusion(labels, logits.argmax(1), run, epoch)
        if not np.isfinite(loss):
            break
        run.save(epoch + 1)
        if run.patience and epoch - np.argmax([old["val_accuracy"] for old in history]) >= run.patience:
            break


def distillation_batches(
    batches: tf.data.Dataset, teachers: Sequence[keras.Model], share: float = 0.7
) -> tf.data.Dataset:
    """Batches whose targets are `share` x the mean prediction of teachers (networks on the same feature) + the rest x targets."""

    def soften(features, targets):
        predicted = [tf.nn.softmax(teacher(features, training=False)) for teacher in teachers]
        return features, share * tf.add_n(predicted) / len(teachers) + (1 - share) * targets

    return batches.map(soften, num_parallel_calls=1).prefetch(2)


def network_of(path: str | Path) -> keras.Model:
    """The network, without front end and softmax, of a model saved by `train`."""
    return load_model(path).layers[2]


def warm_start(
    network: keras.Model, trained: keras.Model, include: Sequence[str] = ("",), exclude: Sequence[str] = ()
) -> list[str]:
    """Copy weights of a trained network into one of the same kind.

    Of layers whose name there contains one of the texts `include` and none of `exclude`.
    Returns the names of the layers. Raises CourseError where a layer has another shape.
    """
    copied = []
    for layer, other in zip(network.layers, trained.layers):
        chosen = any(text in other.name for text in include) and not any(
            text in other.name for text in exclude
        )
        if other.weights and chosen:
            shapes = [[w.shape for w in each.weights] for each in (layer, other)]
            if shapes[0] != shapes[1]:
                raise CourseError(
                    f"layer {other.name} has weights {shapes[1]}, the new one {shapes[0]}: exclude it"
                )
            layer.set_weights(other.get_weights())
            copied.append(other.name)
    return copied


def worker_number() -> int:
    """Number of this process among the workers that TF_CONFIG names; 0 where it names none."""
    try:
        return json.loads(os.environ.get("TF_CONFIG") or "{}").get("task", {}).get("index", 0)
    except (ValueError, AttributeError) as error:
        raise CourseError(
            f"TF_CONFIG: not the JSON that tf.distribute expects ({error}). Mend it, or unset it"
        ) from error


def choose_strategy() -> tf.distribute.Strategy:
    """Strategy for the workers of TF_CONFIG, for several GPUs, or for one device. Ask before TensorFlow has done anything."""
    if os.environ.get("TF_CONFIG"):
        worker_number()
        return tf.distribute.MultiWorkerMirroredStrategy()
    several = len(tf.config.list_physical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of a training.

    Parameters
    ----------
    model : name of a model in ZOO
    splits : values of the manifest's column split to train on
    engine : keras (`fit`) or tensorflow (a loop by hand)
    teachers : paths of models of the same feature whose probabilities become part of the targets
    start : path of a model to begin with
    exclude : texts in the names of layers not to take from it
    patience : epochs without a better one after which to stop
    learning_rate : the highest one, after the warm-up
    augmentations : a key of AUGMENTATIONS
    random : random numbers in place of clips, to try it
    logdir : folder of TensorBoard's logs
    logrun : this run's name in it
    resume : resume an interrupted training of the same settings, if there is one
    """

    model: str
    epochs: int
    seed: int = 0
    splits: tuple = ("train",)
    engine: str = "keras"
    teachers: tuple = ()
    start: Path | None = None
    exclude: tuple = ()
    patience: int | None = None
    learning_rate: float = 3e-3
    augmentations: str = "standard"
    random: bool = False
    logdir: Path | None = None
    logrun: str | None = None
    resume: bool = True

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("seed", 0), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, np.integer)) and least <= value < 2**32):
                raise CourseError(f"{name}={value}: {least} or more is wanted, a whole number")
        if not 0 < self.learning_rate < np.inf:
            raise CourseError(f"learning_rate={self.learning_rate}: more than 0 is wanted")
        for name, known in (("model", ZOO), ("engine", ENGINES), ("augmentations", AUGMENTATIONS)):
            if getattr(self, name) not in known:
                raise CourseError(f"{name}={getattr(self, name)}: there are {', '.join(known)}")

    def settings(self, place: Place) -> dict[str, Any]:
        """What makes two trainings the same, as a JSON-able dict."""
        how = {"logdir", "logrun", "resume"}
        if self.augmentations == "standard":
            how.add("augmentations")  # a training from before there were others is still the same
        values = {key: value for key, value in dataclasses.asdict(self).items() if key not in how}
        names = {"teachers": [Path(path).name for path in self.teachers]}
        names |= {"splits": list(self.splits), "exclude": list(self.exclude)}
        models = [file_digest(path) for path in (*self.teachers, *filter(None, [self.start]))]
        names |= {"digests": models} if models else {}
        return values | names | {"start": self.start and Path(self.start).name, "manifest": place.fingerprint}


ENGINES = {"keras": fit_keras, "tensorflow": fit_tensorflow}


def strong_augmentations(noise: np.ndarray) -> tuple[Callable, ...]:
    """More than `standard_augmentations`, where few people have spoken: speed up to 25 %, a room, noise three times as loud."""
    faster = functools.partial(speed_perturb, max_change=0.25)
    louder = functools.partial(add_noise, noise=tf.constant(noise), max_volume=0.3)
    return faster, shift, gain, reverberate, louder


AUGMENTATIONS = {"standard": standard_augmentations, "strong": strong_augmentations}


def prepare(place: Place, options: Options) -> tuple[keras.Model, Data]:
    """A compiled network and its Data, ready to be trained."""
    keras.utils.set_random_seed(options.seed)
    model, classes = ZOO[options.model], len(labels_of(place.manifest))
    if options.random:
        data = random_data(model.feature, options.seed, classes=classes)
    else:
        rows = np.flatnonzero(place.manifest.split.isin(options.splits))
        augmentations = AUGMENTATIONS[options.augmentations](read_noise(place.folder))
        data = load_data(place, model.feature, rows, options.seed, augmentations=augmentations)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    steps = options.epochs * len(data.batches()) // replicas
    network = compile_model(model.build(classes), steps, options.learning_rate)
    if options.start:
        warm_start(network, network_of(options.start), exclude=options.exclude)
    if options.teachers:
        teachers, plain = [network_of(path) for path in options.teachers], data.batches
        data = data._replace(
            batches=lambda first_epoch=0: distillation_batches(plain(first_epoch=first_epoch), teachers)
        )
    return network, data


def train(place: Place, options: Options, tag: str | None = None) -> Path:
    """Train a zoo model, choosing the epoch on the validation clips; returns the path of <tag>.keras (default: the model's name).

    Writes <tag>.keras (PCM to probabilities), <tag>.json (settings, seconds) and <tag>.csv (one row per epoch) to the working
    folder of the Place. Raises CourseError where a store is missing or stale; interrupted, it resumes after the last whole epoch.
    """
    tag, settings, worker = tag or options.model, options.settings(place), worker_number()
    path, folder = place.work / f"{tag}.keras", run_folder(place.work, tag, settings)
    if worker:
        path, folder = (each.with_name(f"worker{worker}-{each.name}") for each in (path, folder))
    note = path.with_suffix(".json")
    with exclusive_write(path):
        if path.exists() and is_made(note, settings):
            return path
        if not options.resume:
            remove(folder)
        network, data = prepare(place, options)
        for made in (folder, path.parent):
            made.mkdir(parents=True, exist_ok=True)
        board = Path(options.logdir or place.work / "logs") / (options.logrun or folder.name)
        state = checkpoint_manager(network, folder / "state")
        run = Run(folder, board, state, options.seed, labels_of(place.manifest), options.patience)
        truncate_history(run.log, run.epoch)
        ENGINES[options.engine](network, data, options.epochs, run)
        history = pd.read_csv(run.log)
        if not np.isfinite(history.loss.iloc[-1]):
            raise FloatingPointError(
                f"{tag}: the loss became NaN in epoch {len(history)}. Lower the learning rate"
            )
        network.load_weights(folder / "best.weights.h5")
        note.unlink(missing_ok=True)
        feature = ZOO[options.model].feature
        with_front_end(network, feature, data.statistics).save(folder / "model.keras")
        (folder / "model.keras").replace(path)
        write_atomically(path.with_suffix(".csv"), run.log.read_bytes())
        about = {"feature": feature, "MACs": macs(network), "seconds": round(history.seconds.sum())}
        write_json(note, settings | about | circumstances())
        remove(folder)
    return path


def with_unlabelled(place: Place) -> pd.DataFrame:
    """The manifest of a Place and, below it, the readable clips of its test folder: split `unlabelled`, label unknown for now."""
    manifest, audio = place.manifest, place.folder / "test/audio"
    paths = [path for path in visible_files(audio, ".wav") if not check_wav(path)[0]]
    clips = pd.DataFrame({"path": [path.as_posix() for path in paths]}).assign(
        word="",
        label=labels_of(manifest)[1],
        speaker="unlabelled",
        split="unlabelled",
        sample=False,
        start=0,
        gain=1.0,
    )
    both = pd.concat([manifest, clips[manifest.columns]], ignore_index=True)
    return both.assign(label=pd.Categorical(both.label, labels_of(manifest)))


def consensus(probabilities: np.ndarray, threshold: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """What models say together, from probabilities [models, n, labels]: label numbers [n], and a mask [n].

    The mask says where all agree and their mean probability is at least `threshold`.
    """
    mean = np.mean(probabilities, axis=0)
    labels = mean.argmax(1)
    return labels, (np.argmax(probabilities, axis=2) == labels).all(0) & (mean.max(1) >= threshold)


def pseudo_labelled(both: pd.DataFrame, probabilities: np.ndarray, threshold: float = 0.9) -> pd.DataFrame:
    """The manifest of `with_unlabelled` with labels from probabilities [models, unlabelled rows, labels]: split `pseudo`."""
    labels, sure = consensus(probabilities, threshold)
    rows = np.flatnonzero(both.split == "unlabelled")[sure]
    result = both.copy()
    result.loc[rows, "label"] = np.array(labels_of(both))[labels[sure]]
    result.loc[rows, "split"] = "pseudo"
    return result
