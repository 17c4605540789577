"""Notebook 4: the epoch, a training that stops and goes on, teachers, warm starts, pseudo labels."""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT

from kws.audio import to_float
from kws.inference import load_model
from kws.infra import runs
from kws.infra.files import CourseError
from kws.infra.runs import (
    AUGMENTATIONS,
    Options,
    choose_strategy,
    consensus,
    distillation_batches,
    load_data,
    prepare,
    pseudo_labelled,
    train,
    warm_start,
    with_unlabelled,
    worker_number,
)
from kws.models import compile_model, with_front_end
from kws.preprocess import open_store, read_noise
from kws.split import is_out_of_vocabulary
from kws.training import MARGIN, best_of_sample, draw_epoch, evaluate, final_model, training_step
from kws.zoo import ZOO

ENGINES = ("keras", "tensorflow")
full = pytest.mark.full
both_engines = pytest.mark.parametrize("engine", ENGINES)


def copy_of(place, work):
    """A Place to train in: its stores are links to those that all tests read."""
    work.mkdir()
    for path in place.work.iterdir():
        (work / path.name).symlink_to(path)
    return place._replace(work=work)


@pytest.fixture
def copy(place, tmp_path):
    return copy_of(place, tmp_path / "work")


def test_an_epoch_has_the_shares_asked_for():
    labels = np.repeat([0, 1, 2, 3, 4], [300, 900, 100, 30, 5])
    words = labels.astype(str)
    rows = draw_epoch(labels, words, np.random.default_rng(0), silence=0.1, unknown=0.3, max_repeats=4)
    counts = np.bincount(labels[rows])
    assert counts[2:].tolist() == [100, 100, 20]
    assert counts[0] / len(rows) == pytest.approx(0.1, abs=0.01)
    assert counts[1] / len(rows) == pytest.approx(0.3, abs=0.01)
    of_commands = np.bincount(rows, minlength=len(labels))[labels > 1]
    assert of_commands.max() == 4 and of_commands.min() >= 1
    other = draw_epoch(labels, words, np.random.default_rng(1), silence=0.1, unknown=0.3, max_repeats=4)
    assert len(other) == len(rows) and set(other[labels[other] == 1]) != set(rows[labels[rows] == 1])


@pytest.mark.parametrize("power, share", [(0, 0.5), (0.5, 10 / 11), (1, 100 / 101)])
def test_rare_unknown_words_are_drawn_more_often(power, share):
    labels, words = (
        np.repeat([1, 1, 2], [4_000, 40, 8_000]),
        np.repeat(["bed", "wow", "yes"], [4_000, 40, 8_000]),
    )
    drawn = words[draw_epoch(labels, words, np.random.default_rng(0), unknown=0.4, power=power)]
    assert (drawn == "bed").sum() / (drawn != "yes").sum() == pytest.approx(share, abs=0.02)


def test_an_epoch_without_silence():
    labels = np.repeat([1, 2, 3], 20)
    rows = draw_epoch(labels, labels.astype(str), np.random.default_rng(0))
    assert set(rows) >= set(range(20, 60)) and (labels[rows] == 1).any()


@both_engines
def test_train_once(copy, manifest, engine):
    def trained(epochs):
        return train(copy, Options("linear", epochs, engine=engine, logrun="here"))

    path = trained(2)
    note = json.loads(path.with_suffix(".json").read_text())
    assert note["epochs"] == 2 and note["model"] == "linear" and note["engine"] == engine
    assert (
        note["manifest"] == copy.fingerprint and note["feature"] == "log_mel" and note["MACs"] == 98 * 40 * 12
    )
    history = pd.read_csv(path.with_suffix(".csv"))
    assert history.epoch.tolist() == [0, 1] and (history.seconds > 0).all()
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(history.columns)
    assert list((copy.work / "logs/here").rglob("events*"))
    written = path.stat().st_mtime_ns
    trained(2)
    assert path.stat().st_mtime_ns == written, "the same training was done twice"
    trained(3)
    assert path.stat().st_mtime_ns != written
    assert not any((copy.work / "checkpoints").iterdir())
    table, labels, probabilities = evaluate(load_model(path), copy, "test")
    assert set(table.index) == {f"test, {part}" for part in ("spoken", "unseen words", "silence", "all")}
    unseen = is_out_of_vocabulary(manifest) & (manifest.split == "test")
    assert table.n["test, unseen words"] == unseen.sum() > 0
    assert table.accuracy["test, all"] == np.mean(labels == probabilities.argmax(1))
    heard, *_ = evaluate(load_model(path), copy, "test", splits=("train", "val", "test"))
    assert "test, unseen words" not in heard.index


def weights_of(path):
    return load_model(path).get_weights()


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@full  # a training that is stopped and gone on with, below, has to end with the same weights, too
@both_engines
def test_same_seed_same_weights(copy, engine):
    weights = []
    for seed in (5, 5, 6):
        (copy.work / "linear.json").unlink(missing_ok=True)
        weights.append(weights_of(train(copy, Options("linear", 1, seed=seed, engine=engine))))
    assert same(weights[0], weights[1]) and not same(weights[0], weights[2])


@pytest.fixture(scope="module")
def undisturbed(place, tmp_path_factory):
    """Function of an engine: working folder of a training that nothing has stopped, of a model with dropout."""

    @functools.cache
    def trained(engine):
        copy = copy_of(place, tmp_path_factory.mktemp(engine) / "work")
        train(copy, Options("dnn", 3, engine=engine))
        return copy.work

    return trained


def test_both_engines_take_the_same_steps(undisturbed):
    one, other = (pd.read_csv(undisturbed(engine) / "dnn.csv") for engine in ENGINES)
    for column in ("val_loss", "val_accuracy"):
        assert np.allclose(one[column], other[column], atol=1e-3), column


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 0},
        {"seed": -1},
        {"patience": 0},
        {"learning_rate": 0},
        {"model": "huge"},
        {"engine": "torch"},
        {"augmentations": "none"},
    ],
    ids=str,
)
def test_settings_that_are_none(changed):
    (name, value), *_ = changed.items()
    with pytest.raises(
        CourseError,
        match=f"{name}={value}: (. or more is wanted|more than 0 is wanted|there are (.*linear|keras, t|standard, s))",
    ):
        Options(**{"model": "linear", "epochs": 1} | changed)


def test_other_augmentations_are_another_training(place):
    standard, strong = (Options("linear", 1, augmentations=name) for name in AUGMENTATIONS)
    assert "augmentations" not in standard.settings(place), (
        "models of earlier versions would be trained again"
    )
    assert strong.settings(place) == standard.settings(place) | {"augmentations": "strong"}
    clips = to_float(open_store(place, "pcm")[:4])
    for number, augment in enumerate(AUGMENTATIONS["strong"](read_noise(place.folder))):
        assert not np.array_equal(augmented := augment(clips, (0, number)), clips)
        assert augmented.shape == clips.shape and np.isfinite(augmented).all()


class Stopped(BaseException):
    """As if the process were killed: nothing in the course catches it."""


def stop_at(monkeypatch, when):
    """Stop a training before or after it has saved its n-th state, "before n" or "after n"."""
    save, calls = tf.train.CheckpointManager.save, []

    def counted(self, *args, **options):
        calls.append(1)
        if when == f"before {len(calls)}":
            raise Stopped
        save(self, *args, **options)
        if when == f"after {len(calls)}":
            raise Stopped

    monkeypatch.setattr(tf.train.CheckpointManager, "save", counted)


def ends_alike(alone, copy, name, epochs):
    """Two working folders have a model with the same weights and, but for the time it took, the same history."""
    assert same(*(weights_of(work / f"{name}.keras") for work in (alone, copy)))
    one, other = (pd.read_csv(work / f"{name}.csv").drop(columns="seconds") for work in (alone, copy))
    assert other.epoch.tolist() == [*range(epochs)]
    pd.testing.assert_frame_equal(one, other)


@both_engines
def test_stopped_and_gone_on_it_ends_with_the_same_weights(copy, undisturbed, monkeypatch, engine):
    options = Options("dnn", 3, engine=engine)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, "before 2")
        train(copy, options)
    (folder,) = (copy.work / "checkpoints").iterdir()
    assert len(pd.read_csv(folder / "history.csv")) == 2, "stopped between the row of an epoch and its state"
    train(copy, options)
    ends_alike(undisturbed(engine), copy.work, "dnn", 3)


def test_without_resume_it_begins_anew(copy, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, "after 1")
        train(copy, Options("linear", 2))
    (folder,) = (copy.work / "checkpoints").iterdir()
    assert (folder / "history.csv").exists()
    begun, plain = [], runs.truncate_history
    monkeypatch.setattr(
        runs,
        "truncate_history",
        lambda log, epoch: begun.append((log.exists(), epoch)) or plain(log, epoch),
    )
    train(copy, Options("linear", 2, resume=False))
    assert begun == [(False, 0)]
    assert not folder.exists() and len(pd.read_csv(copy.work / "linear.csv")) == 2


TRAIN = """
import os
import sys
import tensorflow as tf
from kws.split import Place, read_manifest
from kws.infra.runs import Options, train

work, corpus, engine, when = sys.argv[1:]
save, count = tf.train.CheckpointManager.save, 0

def counted(self, *args, **options):
    global count
    count += 1
    if when == f"before {count}":
        os.kill(os.getpid(), 9)
    save(self, *args, **options)
    if when == f"after {count}":
        os.kill(os.getpid(), 9)

tf.train.CheckpointManager.save = counted
train(Place.of(work, read_manifest(work), corpus), Options("ds_cnn_s", 4, engine=engine))
"""


def run(*arguments):
    program = [sys.executable, "-c", TRAIN, *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, cwd=ROOT)


@full
@both_engines
def test_killed_and_gone_on_it_ends_with_the_same_weights(copy, corpus, tmp_path, engine):
    alone = tmp_path / "alone"
    shutil.copytree(copy.work, alone, symlinks=True)
    assert run(alone, corpus, engine, "never").returncode == 0
    for when in ("before 3", "after 1", "never"):  # the second and third go on from what is left
        done = run(copy.work, corpus, engine, when)
        assert done.returncode == (0 if when == "never" else -9), done.stderr[-2_000:]
    ends_alike(alone, copy.work, "ds_cnn_s", 4)


def with_rate(monkeypatch, rate):
    monkeypatch.setattr(runs, "compile_model", lambda network, steps, _: compile_model(network, steps, rate))


@both_engines
def test_nan_stops_with_a_message(copy, monkeypatch, engine):
    with_rate(monkeypatch, float("nan"))
    with pytest.raises(FloatingPointError, match="linear: the loss became NaN"):
        train(copy, Options("linear", epochs=3, engine=engine))
    assert not (copy.work / "linear.keras").exists()


@both_engines
def test_patience(copy, monkeypatch, engine):
    with_rate(monkeypatch, 0.0)
    path = train(copy, Options("linear", epochs=30, engine=engine, patience=2))
    assert len(pd.read_csv(path.with_suffix(".csv"))) < 10


def test_teachers_change_the_targets():
    teacher = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, use_bias=False, kernel_initializer="zeros")]
    )
    batches = tf.data.Dataset.from_tensors(
        (np.ones((4, 3), "float32"), np.eye(2, dtype="float32")[[0, 0, 1, 1]])
    )
    _, targets = next(iter(distillation_batches(batches, [teacher, teacher], share=0.5)))
    assert np.allclose(targets, [[0.75, 0.25]] * 2 + [[0.25, 0.75]] * 2)


def test_warm_start_takes_what_it_is_told():
    keras.utils.set_random_seed(0)
    old, new, other = ZOO["tc_resnet8"].build(12), ZOO["tc_resnet8"].build(12), ZOO["tc_resnet8"].build(5)
    last = old.layers[-1].name
    before = new.layers[-1].get_weights()
    taken = warm_start(new, old, exclude=[last])
    assert last not in taken and taken and same(new.layers[-1].get_weights(), before)
    assert same(new.layers[1].get_weights(), old.layers[1].get_weights())
    assert warm_start(new, old, include=[last]) == [last]
    assert same(new.get_weights(), old.get_weights())
    with pytest.raises(CourseError, match=f"layer {last} has weights"):
        warm_start(other, old)


def test_train_from_a_warm_start_and_with_a_teacher(copy, monkeypatch):
    first = copy.work / "first.keras"
    statistics = open_store(copy, "log_mel").attrs["statistics"]
    with_front_end(ZOO["linear"].build(), "log_mel", statistics).save(first)
    with_rate(monkeypatch, 0.0)
    second = train(copy, Options("linear", 1, start=first, teachers=(first,)), tag="second")
    note = json.loads(second.with_suffix(".json").read_text())
    assert note["start"] == "first.keras" and note["teachers"] == ["first.keras"]
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(weights_of(second), weights_of(first)))


def test_another_seed_is_another_training(tmp_path, place):
    weights, batches = [], []
    for seed in (5, 5, 6):
        network, data = prepare(place, Options("linear", 1, seed=seed, random=True))
        weights.append(network.get_weights())
        batches.append(next(iter(data.batches()))[0])
    assert same(weights[0], weights[1]) and not same(weights[0], weights[2])
    assert np.array_equal(batches[0], batches[1]) and not np.array_equal(batches[0], batches[2])


def test_data_of_a_training(place):
    rows = np.flatnonzero(place.manifest.split == "train")
    data = load_data(place, "log_mel", rows, augmentations=(), masks=False)
    features, targets = next(iter(data.batches(first_epoch=0)))
    assert features.shape[1:] == (98, 40) and targets.shape[1] == 12 and (targets.numpy().sum(1) == 1).all()
    assert len(data.val[0]) == (place.manifest.split == "val").sum()
    again, _ = next(
        iter(load_data(place, "log_mel", rows, augmentations=(), masks=False).batches(first_epoch=0))
    )
    other, _ = next(iter(data.batches(first_epoch=1)))
    assert np.array_equal(features, again) and not np.array_equal(features, other)
    words = place.manifest.word.astype("category").cat.codes.to_numpy().astype(int)
    targets = next(iter(load_data(place, "log_mel", rows, labels=words).batches()))[1]
    assert targets.shape[1] == words.max() + 1


def test_pseudo_labels(place, corpus, manifest):
    both = with_unlabelled(place)
    count = (both.split == "unlabelled").sum()
    assert (
        count == len(list((corpus / "test/audio").glob("*.wav"))) > 0 and len(both) == len(manifest) + count
    )
    pd.testing.assert_frame_equal(both[: len(manifest)], manifest)
    sure, unsure = np.eye(12)[2], np.full(12, 1 / 12)
    one, other = np.tile(sure, (count, 1)), np.tile(sure, (count, 1))
    one[0], other[1] = unsure, np.eye(12)[3]
    pseudo = pseudo_labelled(both, np.array([one, other]), 0.9)[len(manifest) :]
    assert pseudo.split.tolist() == ["unlabelled"] * 2 + ["pseudo"] * (count - 2)
    assert set(pseudo.label[2:]) == {"yes"}


def test_consensus():
    yes, no = np.eye(3)[1], np.eye(3)[2]
    labels, sure = consensus(np.array([[yes, yes, 0.8 * yes + 0.1], [yes, no, yes]]), 0.96)
    assert labels.tolist() == [1, 1, 1] and sure.tolist() == [True, False, False]
    assert consensus(np.array([[yes, yes, 0.8 * yes + 0.1], [yes, no, yes]]), 0.95)[1].tolist() == [
        True,
        False,
        True,
    ]


@full
def test_two_workers_end_with_equal_weights(tmp_path):
    ports = [socket.socket() for _ in range(2)]
    for port in ports:
        port.bind(("localhost", 0))
    cluster = {"worker": [f"localhost:{port.getsockname()[1]}" for port in ports]}
    for port in ports:
        port.close()
    options = "--random-data --model ds_cnn_s --engine tensorflow --epochs 2 --logdir logs".split()
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "kws.cli", "train", *options],
            cwd=tmp_path,
            env=os.environ
            | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}})}
            | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    for worker in workers:
        text, _ = worker.communicate(timeout=300)
        assert worker.returncode == 0, text[-3_000:]
    one, other = (
        weights_of(tmp_path / "data/random" / name) for name in ("ds_cnn_s.keras", "worker1-ds_cnn_s.keras")
    )
    assert same(one, other)


def test_workers_of_a_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert worker_number() == 0 and choose_strategy() is tf.distribute.get_strategy()
    monkeypatch.setenv("TF_CONFIG", '{"task": {"type": "worker", "index": 1}}')
    assert worker_number() == 1
    for text in ("{", "[]", '{"task": 3}'):
        monkeypatch.setenv("TF_CONFIG", text)
        with pytest.raises(CourseError, match="TF_CONFIG: not the JSON"):
            choose_strategy()


def test_best_of_sample(tmp_path):
    with pytest.raises(CourseError, match="3_sample_experiments.ipynb"):
        best_of_sample(tmp_path)
    rows = pd.DataFrame(
        [
            ["conv", 0.900, 9.0],
            ["ds_cnn_s", 0.950, 5.0],
            ["ds_cnn_s", 0.834, 5.0],
            ["tc_resnet8", 0.900 - MARGIN + 1e-6, 2.0],
            ["linear", 0.900 - MARGIN - 1e-6, 1.0],
            ["forest", 0.99, 0.1],
            ["kwt1", 0.98, 0.1],
        ],
        columns=["model", "accuracy", "MACs"],
    )
    rows.to_csv(tmp_path / "experiments.csv")
    assert best_of_sample(tmp_path) == "tc_resnet8", "the cheapest within the margin that can be frozen"
    rows[rows.model != "tc_resnet8"].to_csv(tmp_path / "experiments.csv")
    assert best_of_sample(tmp_path) == "ds_cnn_s", "by the mean of its seeds"


def test_a_training_step_lowers_the_loss_of_its_batch():
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    network.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    features, targets = tf.random.normal([30, 8], seed=1), tf.one_hot(np.arange(30) % 3, 3)
    step = tf.function(training_step(network))
    losses = [float(step(features, targets)[0]) for _ in range(20)]
    assert losses == sorted(losses, reverse=True)
    loss, right = step(features, targets)
    logits = network(features)
    assert float(right) == pytest.approx(np.mean(logits.numpy().argmax(1) == np.arange(30) % 3), abs=0.1)
    halved, _ = training_step(network, replicas=2)(features, targets)
    assert float(halved) == pytest.approx(float(network.loss(targets, logits)) / 2, rel=1e-5)


def test_final_model(tmp_path):
    assert final_model(tmp_path, "dnn") == tmp_path / "dnn.keras"
    (tmp_path / "best.keras").touch()
    assert final_model(tmp_path) == tmp_path / "best.keras"
    assert final_model(tmp_path, "dnn") == tmp_path / "dnn.keras"
