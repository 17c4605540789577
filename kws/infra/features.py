"""The features of a corpus: each with the numbers it depends on, computed for rows of the manifest, and kept in a store."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf

from kws.audio import CLIP_SAMPLES, FULL_SCALE, SAMPLE_RATE, read_clips
from kws.infra.files import CourseError
from kws.infra.manifest import Place
from kws.infra.store import make_store, open_array, store_fault
from kws.split import labels_of
from kws.stretch import read_stretched


class Feature(NamedTuple):
    """A feature: the function PCM [n, 16,000] -> float32 [n, ...], and the numbers it depends on, as a JSON-able dict."""

    compute: Callable
    parameters: dict


FEATURES: dict[str, Feature] = {}  # filled by kws.preprocess


def feature_parameters(feature: str) -> dict[str, Any]:
    """What has to be equal for two features to be the same numbers, as a JSON-able dict; travels with store and model."""
    common = {"feature": feature, "sample_rate": SAMPLE_RATE, "samples": CLIP_SAMPLES}
    return common | FEATURES[feature].parameters


@functools.cache
def as_graph(compute: Callable) -> Callable:
    """A feature's function as a TensorFlow graph, built once: faster than one operation after the other."""
    return tf.function(compute, input_signature=[tf.TensorSpec([None, CLIP_SAMPLES], tf.float32)])


def _compute_rows(feature: str, function: Callable, rows: pd.DataFrame, piece: int = 32) -> np.ndarray:
    def compute(at: int) -> np.ndarray:
        part = rows[at : at + piece]
        clips = read_stretched(part) if "rate" in rows else read_clips(part)
        if feature == "pcm":
            return np.round(clips * FULL_SCALE).astype("int16")
        return as_graph(function)(clips).numpy()

    with ThreadPoolExecutor(2) as pool:
        return np.concatenate(list(pool.map(compute, range(0, len(rows), piece))))


def compute_rows(feature: str, rows: pd.DataFrame, piece: int = 32) -> np.ndarray:
    """Features of some rows of the manifest: float32 [n, ...]; int16 [n, 16,000] for pcm.

    Two pieces at a time: while one thread reads files, the other computes.
    """
    return _compute_rows(feature, FEATURES[feature].compute, rows, piece)


def store_path(place: Place, feature: str) -> Path:
    """Where the store of a feature is: <work>/<feature>.bc"""
    return place.work / f"{feature}.bc"


def store_record(place: Place, feature: str) -> dict[str, Any]:
    """What a store of `feature` for the manifest of a Place must say of itself, to be used."""
    return feature_parameters(feature) | {
        "labels": list(labels_of(place.manifest)),
        "manifest": place.fingerprint,
    }


def write_store(place: Place, feature: str, **options: Any) -> Any:
    """Compute `feature` (a key of FEATURES) for all rows of the manifest of a Place into <work>/<feature>.bc; the open store.

    A store that fits is left as it is. Killed, the next call resumes with the shards that are missing. Mean and standard
    deviation over the training rows are kept in its attrs. `options`: shard, client, library of `kws.infra.store.make_store`.
    """
    # the function itself travels to the workers of a cluster: what defines it is imported there
    compute = functools.partial(_compute_rows, feature, FEATURES[feature].compute)
    return make_store(
        store_path(place, feature), store_record(place, feature), place.manifest, compute, **options
    )


def open_store(place: Place, feature: str) -> Any:
    """The store of `feature`, if it fits the manifest and the parameters in force.

    Raises
    ------
    CourseError: it is missing or stale; says which, and the command that makes it anew.
    """
    path = store_path(place, feature)
    if fault := store_fault(path, store_record(place, feature)):
        raise CourseError(
            f"{path}: {fault}. Make it with notebook 2_preprocess_augment.ipynb, or the command kws features "
            "(and the same CORPUS and PROFILE)"
        )
    return open_array(path)
