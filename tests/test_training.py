"""Notebook 4: the epoch, a training that stops and goes on, scores, results."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from kws import training
from kws.models import ZOO, load_model
from kws.split import CourseError, is_out_of_vocabulary
from kws.training import (
    best_of_sample,
    calibration_error,
    draw_epoch,
    evaluate,
    expected_accuracy,
    final_model,
    fit_temperature,
    pseudo_labelled,
    record,
    reliability,
    distillation_batches,
    apply_temperature,
    train,
    warm_start,
    with_unlabelled,
)


@pytest.fixture
def copy(work, tmp_path):
    """A working folder to train in."""
    shutil.copytree(work, tmp_path / "work")
    return tmp_path / "work"


def test_an_epoch_has_the_shares_asked_for():
    labels = np.repeat([0, 1, 2, 3, 4], [300, 900, 100, 30, 5])
    words = labels.astype(str)
    rows = draw_epoch(labels, words, np.random.default_rng(0), silence=0.1, unknown=0.3, most=4)
    counts = np.bincount(labels[rows])
    assert counts[2:].tolist() == [100, 100, 20]
    assert counts[0] / len(rows) == pytest.approx(0.1, abs=0.01)
    assert counts[1] / len(rows) == pytest.approx(0.3, abs=0.01)
    of_commands = np.bincount(rows, minlength=len(labels))[labels > 1]
    assert of_commands.max() == 4 and of_commands.min() >= 1
    other = draw_epoch(labels, words, np.random.default_rng(1), silence=0.1, unknown=0.3, most=4)
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


@pytest.mark.parametrize("engine", ["keras", "tensorflow"])
def test_train_once(copy, corpus, manifest, engine):
    path = train(copy, corpus, manifest, "linear", epochs=2, engine=engine, logrun="here")
    note = json.loads(path.with_suffix(".json").read_text())
    assert note["epochs"] == 2 and note["model"] == "linear" and note["engine"] == engine
    history = pd.read_csv(path.with_suffix(".csv"))
    assert history.epoch.tolist() == [0, 1] and (history.seconds > 0).all()
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(history.columns)
    assert list((copy / "logs/here").rglob("events*"))
    written = path.stat().st_mtime_ns
    train(copy, corpus, manifest, "linear", epochs=2, engine=engine)
    assert path.stat().st_mtime_ns == written, "the same training was done twice"
    train(copy, corpus, manifest, "linear", epochs=3, engine=engine)
    assert path.stat().st_mtime_ns != written
    assert not any((copy / "checkpoints").iterdir())
    table, labels, probabilities = evaluate(load_model(path), copy, manifest, "test")
    assert set(table.index) == {f"test, {part}" for part in ("spoken", "unseen words", "silence", "all")}
    assert (
        table.n["test, unseen words"]
        == (is_out_of_vocabulary(manifest) & (manifest.split == "test")).sum()
        > 0
    )
    assert table.accuracy["test, all"] == np.mean(labels == probabilities.argmax(1))


def weights_of(path):
    return load_model(path).get_weights()


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("engine", ["keras", "tensorflow"])
def test_same_seed_same_weights(copy, corpus, manifest, engine):
    weights = []
    for seed in (5, 5, 6):
        (copy / "linear.json").unlink(missing_ok=True)
        weights.append(weights_of(train(copy, corpus, manifest, "linear", 1, seed=seed, engine=engine)))
    assert same(weights[0], weights[1]) and not same(weights[0], weights[2])


def test_both_engines_take_the_same_steps(copy, corpus, manifest):
    ends = [
        pd.read_csv(train(copy, corpus, manifest, "dnn", 2, tag=engine, engine=engine).with_suffix(".csv"))
        for engine in ("keras", "tensorflow")
    ]
    for column in ("val_loss", "val_accuracy"):
        assert np.allclose(ends[0][column], ends[1][column], atol=1e-3), column


TRAIN = """
import sys
import keras
from kws import training
from kws.split import read_manifest

work, corpus, engine, when, resume = sys.argv[1:]
save, count = training.tf.train.CheckpointManager.save, 0

def counted(self, *args, **options):
    global count
    count += 1
    if when == f"before {count}":
        training.os.kill(training.os.getpid(), 9)
    save(self, *args, **options)
    if when == f"after {count}":
        training.os.kill(training.os.getpid(), 9)

training.tf.train.CheckpointManager.save = counted
training.train(work, corpus, read_manifest(work), "ds_cnn_s", 4, engine=engine, resume=resume == "resume")
"""


def run(*arguments):
    return subprocess.run([sys.executable, "-c", TRAIN, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("engine", ["keras", "tensorflow"])
def test_killed_and_gone_on_it_ends_with_the_same_weights(copy, corpus, tmp_path, engine):
    alone = tmp_path / "alone"
    shutil.copytree(copy, alone)
    assert run(alone, corpus, engine, "never", "resume").returncode == 0
    for when in ("before 3", "after 1", "never"):  # the second and third go on from what is left
        done = run(copy, corpus, engine, when, "resume")
        assert done.returncode == (0 if when == "never" else -9), done.stderr[-2_000:]
    assert same(weights_of(alone / "ds_cnn_s.keras"), weights_of(copy / "ds_cnn_s.keras"))
    one, other = (pd.read_csv(folder / "ds_cnn_s.csv").drop(columns="seconds") for folder in (alone, copy))
    assert other.epoch.tolist() == [0, 1, 2, 3]
    pd.testing.assert_frame_equal(one, other)


def test_without_resume_it_begins_anew(copy, corpus, manifest):
    assert run(copy, corpus, "keras", "after 2", "resume").returncode == -9
    folder = next((copy / "checkpoints").iterdir())
    assert (folder / "history.csv").exists()
    train(copy, corpus, manifest, "ds_cnn_s", 4, resume=False)
    assert not folder.exists() and len(pd.read_csv(copy / "ds_cnn_s.csv")) == 4


@pytest.mark.parametrize("engine", ["keras", "tensorflow"])
def test_nan_stops_with_a_message(copy, corpus, manifest, monkeypatch, engine):
    monkeypatch.setattr(
        training, "compile_model", lambda network, steps: plain(network, steps, learning_rate=float("nan"))
    )
    from kws.models import compile_model as plain

    with pytest.raises(FloatingPointError, match="linear: the loss became NaN"):
        train(copy, corpus, manifest, "linear", epochs=3, engine=engine)
    assert not (copy / "linear.keras").exists()


@pytest.mark.parametrize("engine", ["keras", "tensorflow"])
def test_patience(copy, corpus, manifest, monkeypatch, engine):
    monkeypatch.setattr(
        training, "compile_model", lambda network, steps: plain(network, steps, learning_rate=0.0)
    )
    from kws.models import compile_model as plain

    path = train(copy, corpus, manifest, "linear", epochs=30, engine=engine, patience=2)
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


def test_train_from_a_warm_start_and_with_a_teacher(copy, corpus, manifest):
    first = train(copy, corpus, manifest, "linear", 2, tag="first")
    second = train(copy, corpus, manifest, "linear", 1, tag="second", start=first, teachers=[first])
    note = json.loads(second.with_suffix(".json").read_text())
    assert note["start"] == "first.keras" and note["teachers"] == ["first.keras"]


def test_pseudo_labels(corpus, manifest):
    both = with_unlabelled(corpus, manifest)
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


def test_temperature_mends_what_is_too_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4_000, 5))
    labels = np.array([rng.choice(5, p=p) for p in apply_temperature(np.exp(logits), 1.0)])
    overconfident = apply_temperature(np.exp(logits), 0.25)
    temperature = fit_temperature(overconfident, labels)
    assert temperature == pytest.approx(4, rel=0.1)
    mended = apply_temperature(overconfident, temperature)
    assert calibration_error(mended, labels) < 0.03 < 0.2 < calibration_error(overconfident, labels)
    assert np.array_equal(mended.argmax(1), overconfident.argmax(1)) and np.allclose(mended.sum(1), 1)
    assert reliability(mended, labels).clips.sum() == 4_000


def test_expected_accuracy():
    parts = {"commands": 0.9, "silence": 0.8, "unknown": 0.7, "new": 0.5}
    assert expected_accuracy(parts, silence=0.1, unknown=0.4, new=0.25) == pytest.approx(
        0.45 + 0.08 + 0.4 * 0.65
    )


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
            [sys.executable, "-m", "kws.training", *options],
            cwd=tmp_path,
            env=os.environ
            | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}})}
            | {"PYTHONPATH": str(Path(training.__file__).parent.parent)},
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


def test_best_of_sample(tmp_path):
    with pytest.raises(CourseError, match="3_sample_experiments.ipynb"):
        best_of_sample(tmp_path)
    rows = pd.DataFrame(
        [
            ["dnn", 0.70, 0.75, 1.0],
            ["ds_cnn_s", 0.90, 0.93, 5.0],
            ["ds_cnn_s", 0.80, 0.83, 7.0],
            ["tc_resnet8", 0.84, 0.87, 2.0],
            ["conv", 0.83, 0.845, 1.0],
            ["forest", 0.99, 0.99, 1.0],
            ["kwt1", 0.98, 0.99, 1.0],
        ],
        columns=["model", "accuracy", "high", "seconds"],
    )
    rows.to_csv(tmp_path / "experiments.csv")
    assert best_of_sample(tmp_path) == "tc_resnet8", "fastest of those that may be the best and can be frozen"
    rows.assign(high=rows.accuracy).to_csv(tmp_path / "experiments.csv")
    assert best_of_sample(tmp_path) == "ds_cnn_s", "the mean of the seeds"


def test_final_model(tmp_path):
    assert final_model(tmp_path, "dnn") == tmp_path / "dnn.keras"
    (tmp_path / "best.keras").touch()
    assert final_model(tmp_path) == tmp_path / "best.keras"
    assert final_model(tmp_path, "dnn") == tmp_path / "dnn.keras"


def test_record_adds(tmp_path):
    record(tmp_path, a=1)
    assert record(tmp_path, b=np.float32(0.5)) == {"a": 1, "b": 0.5}
    assert json.loads((tmp_path / "results.json").read_text()) == {"a": 1, "b": 0.5}


def test_terminal(tmp_path):
    done = subprocess.run([sys.executable, "-m", "kws.training", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and all(name in done.stdout for name in ZOO)
    done = subprocess.run(
        [sys.executable, "-m", "kws.training", "--corpus", "nowhere"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (
        done.returncode == 1
        and "nowhere: there is no such folder" in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize("engine", ["keras", "tensorflow"])
def test_random_data_tries_a_training_in_seconds(tmp_path, engine):
    options = f"--random-data --model linear --epochs 1 --engine {engine} --logrun tried".split()
    environment = os.environ | {"PYTHONPATH": str(Path(training.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "kws.training", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert (tmp_path / "data/random/linear.keras").exists() and (tmp_path / "data/random/logs/tried").exists()
