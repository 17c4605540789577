"""Notebook 4: the epoch, a training that stops and goes on, scores, results."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from kws import training
from kws.models import ZOO, load_model
from kws.split import CorpusError, is_unseen
from kws.training import best_of_sample, epoch_rows, evaluate, record, train


@pytest.fixture
def copy(work, tmp_path):
    """A working folder to train in."""
    shutil.copytree(work, tmp_path / "work")
    return tmp_path / "work"


def test_scarce_labels_come_more_often():
    labels = np.repeat([0, 1, 2, 3], [100, 100, 30, 5])
    rows = epoch_rows(labels, most=4)
    assert np.bincount(labels[rows]).tolist() == [100, 100, 60, 20]
    assert set(rows) == set(range(len(labels)))


def test_train_once(copy, corpus, manifest):
    path = train(copy, corpus, manifest, "linear", epochs=2)
    note = json.loads(path.with_suffix(".json").read_text())
    assert note["epochs"] == 2 and note["model"] == "linear"
    assert len(pd.read_csv(path.with_suffix(".csv"))) == 2
    assert list((copy / "logs").rglob("events*"))
    written = path.stat().st_mtime_ns
    train(copy, corpus, manifest, "linear", epochs=2)
    assert path.stat().st_mtime_ns == written, "the same training was done twice"
    train(copy, corpus, manifest, "linear", epochs=3)
    assert path.stat().st_mtime_ns != written
    table, labels, predicted = evaluate(load_model(path), copy, manifest, "test")
    assert set(table.index) == {f"test, {part}" for part in ("spoken", "unseen words", "silence", "all")}
    assert table.n["test, unseen words"] == (is_unseen(manifest) & (manifest.split == "test")).sum() > 0
    assert table.accuracy["test, all"] == np.mean(labels == predicted)


def test_same_seed_same_weights(copy, corpus, manifest):
    weights = []
    for seed in (5, 5, 6):
        (copy / "linear.json").unlink(missing_ok=True)
        weights.append(load_model(train(copy, corpus, manifest, "linear", 1, seed=seed)).get_weights()[0])
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])


def test_interrupted_training_goes_on(copy, corpus, manifest, monkeypatch):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    plain = training.callbacks_for

    def with_stop(*args):
        best, callbacks = plain(*args)
        return best, [*callbacks, Stop()]

    monkeypatch.setattr(training, "callbacks_for", with_stop)
    with pytest.raises(KeyboardInterrupt):
        train(copy, corpus, manifest, "linear", epochs=4)
    assert not (copy / "linear.keras").exists()
    monkeypatch.undo()
    path = train(copy, corpus, manifest, "linear", epochs=4)
    history = pd.read_csv(path.with_suffix(".csv"))
    assert json.loads(path.with_suffix(".json").read_text())["seconds"] == round(history.seconds.sum())
    assert history.epoch.tolist() == [0, 1, 2, 3], "epochs that were done were done again"


def test_the_best_epoch_survives_an_interruption(copy, corpus, manifest):
    settings = training.run_settings("linear", manifest, 4, 0)
    best, callbacks = training.callbacks_for(copy, "linear", settings)
    assert callbacks[1].best is None or callbacks[1].best == -np.inf
    best.with_name(best.name.replace(".weights.h5", "-backup")).mkdir()
    best.with_name(best.name.replace(".weights.h5", ".csv")).write_text(
        "epoch,val_accuracy\n0,0.3\n1,0.9\n2,0.5\n"
    )
    assert training.callbacks_for(copy, "linear", settings)[1][1].best == 0.9


def test_nan_stops_with_a_message(copy, corpus, manifest, monkeypatch):
    monkeypatch.setattr(
        training, "compile_model", lambda body, steps: plain(body, steps, learning_rate=float("nan"))
    )
    from kws.models import compile_model as plain

    with pytest.raises(FloatingPointError, match="linear: the loss became NaN"):
        train(copy, corpus, manifest, "linear", epochs=3)


def test_best_of_sample(tmp_path):
    with pytest.raises(CorpusError, match="3_sample_experiments.ipynb"):
        best_of_sample(tmp_path)
    names = ["dnn", "ds_cnn_s", "ds_cnn_s", "tc_resnet8", "forest", "kwt1"]
    rows = pd.DataFrame({"model": names, "accuracy": [0.2, 0.9, 0.7, 0.85, 0.99, 0.98]})
    rows.to_csv(tmp_path / "experiments.csv")
    assert best_of_sample(tmp_path) == "tc_resnet8", "the mean of the seeds, of what can be frozen"


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
