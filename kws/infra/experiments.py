"""Measurements that are kept: rows of a CSV that are not measured again, results.json, and how they were measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kws.infra.files import CourseError, exclusive_write, read_csv, read_json, write_csv, write_json
from kws.metrics import mean_of_seeds


def circumstances() -> dict[str, str]:
    """Versions, machine and date of a measurement."""
    import tensorflow as tf

    from kws.infra.backend import keras

    gpus = len(tf.config.list_physical_devices("GPU"))
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()}), {gpus} GPU",
        "date": time.strftime("%Y-%m-%d"),
    }


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a CSV file as dictionaries, [] where there is none, or nothing in it."""
    path = Path(path)
    if not path.exists() or not path.stat().st_size:
        return []
    return read_csv(path, dtype={"manifest": str}).to_dict("records")


def cached_row(path: str | Path, key: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row of a CSV file that has the values of `key`; where it is not there, `make()` gives the rest, and it is written.

    The circumstances of the measurement are added to it.
    """
    with exclusive_write(path):
        rows = read_rows(path)
        for row in rows:
            if key.items() <= row.items():
                return row
        row = key | make() | circumstances()
        write_csv(path, pd.DataFrame([*rows, row]))
    return row


def select_rows(path: str | Path, here: bool, **values: Any) -> pd.DataFrame:
    """Rows of a CSV file of measurements that have these values, and a line that says how they were measured: `here` or not.

    Raises
    ------
    CourseError: there are none.
    """
    rows = pd.DataFrame(read_rows(path))
    for column, value in values.items():
        rows = rows[rows[column] == value] if len(rows) else rows
    if not len(rows):
        raise CourseError(f"{path}: no rows with {values} yet. EXPERIMENTS=more measures them")
    r = rows.iloc[-1]
    print(
        f"measured {'here' if here else 'on real speech, kept with the course'}: {r.n} validation clips, chance {r.chance:.1%}, "
        f"{r.epochs} epochs; {r.hardware}, {r.date}"
    )
    return rows


def compare_models(here: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Mean of the seeds, sizes and feature of each model, the best one first; `run` says whose rows: *here*, else *kept*."""
    rows = pd.concat([here.assign(run="here"), kept[~kept.model.isin(here.model)].assign(run="kept")])
    table = mean_of_seeds(rows, "model").join(rows.groupby("model")[["parameters", "MACs"]].mean())
    table = table.join(rows.groupby("model")[["run", "feature"]].first())
    return table.sort_values("accuracy", ascending=False)


def compare_epochs(side: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Mean of the seeds after 15 and after 60 epochs, of each model and augmentation that has both, the best one after 60 first.

    `side` are the rows of side experiments, `rows` those of the models, which all have shift and noise.
    """
    side = side.replace({"variant": {"four times the epochs": "shift, noise"}})
    side = side[
        side.experiment.isin(["augmentation", "long", "patience"])
        & side.variant.isin(["none", "shift, noise", "the recipe"])
    ]
    trials = pd.concat([rows.assign(variant="shift, noise"), side])
    trials = trials[trials.epochs.isin([15, 60])].drop_duplicates(["model", "variant", "epochs", "seed"])
    table = mean_of_seeds(trials, ["model", "variant", "epochs"])
    table = table[["accuracy", "low", "high", "spread"]].unstack().swaplevel(axis=1)
    table = table.rename(columns="{} epochs".format, level=0).dropna(
        subset=[("15 epochs", "accuracy"), ("60 epochs", "accuracy")]
    )
    return table.sort_values(("60 epochs", "accuracy"), ascending=False).sort_index(
        axis=1, level=0, sort_remaining=False
    )


def plot_intervals(table: pd.DataFrame, title: str) -> None:
    """Accuracy of the rows of `mean_of_seeds` as dots with intervals; the column variant names them."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(8, 0.33 * len(table) + 1), constrained_layout=True)
    spread = [table.accuracy - table.low, table.high - table.accuracy]
    ax.errorbar(table.accuracy, table.variant, xerr=np.abs(spread), fmt="o", capsize=3)
    ax.set(title=title, xlabel="validation accuracy (mean of the seeds, 95 % interval)")
    ax.grid(axis="y", alpha=0.3)
    ax.invert_yaxis()
    plt.show()


def record(work: str | Path, **entries: Any) -> dict[str, Any]:
    """Add entries to `work`/results.json and return all of it."""
    path = Path(work) / "results.json"
    with exclusive_write(path):
        results = read_json(path) | entries
        write_json(path, results)
    return results
