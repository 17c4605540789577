"""What lets a training stop at any moment and go on to the same weights."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf

from kws.infra.backend import TqdmCallback, keras
from kws.infra.experiments import read_rows
from kws.infra.files import fingerprint, write_csv


def run_folder(work: str | Path, tag: str, settings: dict) -> Path:
    """Folder of an unfinished training; another one for each setting."""
    return Path(work) / "checkpoints" / f"{tag}-{fingerprint(json.dumps(settings))[:8]}"


def checkpoint_manager(network: keras.Model, folder: str | Path) -> tf.train.CheckpointManager:
    """CheckpointManager of a compiled network: weights, optimiser, epochs done (`.checkpoint.epoch`); reads what `folder` has."""
    network.optimizer.build(network.trainable_variables)
    state = tf.train.Checkpoint(
        network=network, optimizer=network.optimizer, epoch=tf.Variable(0, dtype=tf.int64)
    )
    manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=1)
    manager.restore_or_initialize()
    return manager


class Run(NamedTuple):
    """A training that can be stopped: its folder, TensorBoard's folder, its checkpoints, seed, label names, and patience."""

    folder: Path
    board: Path
    state: tf.train.CheckpointManager
    seed: int = 0
    names: tuple[str, ...] = ()
    patience: int | None = None

    @property
    def log(self) -> Path:
        """The table with a row per epoch."""
        return self.folder / "history.csv"

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return int(self.state.checkpoint.epoch.numpy())

    def save(self, epoch: int) -> None:
        """Write the state, after `epoch` epochs."""
        self.state.checkpoint.epoch.assign(epoch)
        self.state.save()


def seed_dropout(network: keras.Model, seed: int, epoch: int) -> None:
    """Give the dropout layers of a network their random states for an epoch."""
    states = [variable for variable in network.variables if variable.path.endswith("seed_generator_state")]
    for number, state in enumerate(states):
        state.assign([seed + 1_000 * number, 2**20 * epoch])


class EpochSeconds(keras.callbacks.Callback):
    """Adds the seconds of each epoch to its logs, so that the loggers after it keep them."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = time.perf_counter() - self.start


class EpochCheckpoint(keras.callbacks.Callback):
    """Seeds dropout before each epoch and writes the state after it; stops `patience` epochs after the best one in the log."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def on_epoch_begin(self, epoch, logs=None):
        seed_dropout(self.model, self.run.seed, epoch)

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite(logs["loss"]):
            return
        self.run.save(epoch + 1)
        patience = self.run.patience
        if patience and epoch - pd.read_csv(self.run.log).val_accuracy.argmax() >= patience:
            self.model.stop_training = True


def usual_callbacks(network: keras.Model, run: Run) -> list[Any]:
    """Seconds, NaN stop, the table of epochs, TensorBoard, a bar, and last the state: callbacks of any training."""
    return [
        EpochSeconds(),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.CSVLogger(str(run.log), append=True),
        keras.callbacks.TensorBoard(str(run.board)),
        TqdmCallback(verbose=0, desc=network.name, mininterval=5, initial=run.epoch),
        EpochCheckpoint(run),
    ]


def truncate_history(log: Path, epochs: int) -> None:
    """Leave the rows of whole epochs in the table of a training, which may have been stopped in the middle of one."""
    done = [row for row in read_rows(log) if row["epoch"] < epochs]
    if done:
        write_csv(log, pd.DataFrame(done))
    else:
        log.unlink(missing_ok=True)
