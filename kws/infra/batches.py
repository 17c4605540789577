"""Rows of a store as shuffled batches for a training, with a bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kws.infra.store import chunk_rows, read_rows


def epoch_pools(rows: np.ndarray, chunk: int, pool: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The rows of one epoch in random order, as arrays of `pool` rows; rows of a chunk stay together."""
    place = rng.permutation(rows.max() // chunk + 1)[rows // chunk]
    order = rows[np.argsort(place, kind="stable")]
    return [rng.permutation(order[at : at + pool]) for at in range(0, len(order), pool)]


def random_numbers(seed: int, first_epoch: int = 0) -> tf.data.Dataset:
    """Endless Dataset of random numbers, other ones in each epoch; the first pass has those of `first_epoch`."""
    numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    for _ in range(first_epoch):
        next(iter(numbers))
    return numbers


def shuffled_batches(
    store: Any,
    labels: np.ndarray,
    rows: np.ndarray | Callable[[np.random.Generator], np.ndarray],
    batch_size: int = 100,
    seed: int = 0,
    pool: int = 40,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """Dataset of (values [batch, ...], labels [batch]) of some rows of a store, in a new order in each epoch.

    Parameters
    ----------
    store : array on disk or in memory
    labels : int [rows of the store]
    rows : the row numbers of an epoch, or a function rng -> row numbers that draws them anew, always as many
    pool : batches that are in memory at a time; where all rows fit into one pool they are read once and kept
    first_epoch : epochs to leave out, for a training that goes on
    """
    labels = np.asarray(labels, "int64")
    one = rows(np.random.default_rng(seed)) if callable(rows) else rows
    count, size = -(-len(one) // batch_size), pool * batch_size
    if len(one) <= size and not callable(rows):
        store, labels, rows = read_rows(store, one), labels[one], np.arange(len(one))

    def batches(seed):
        rng = np.random.default_rng(seed)
        for some in epoch_pools(
            rows(rng) if callable(rows) else np.asarray(rows), chunk_rows(store), size, rng
        ):
            values = read_rows(store, some)
            for at in range(0, len(some), batch_size):
                yield values[at : at + batch_size], labels[some[at : at + batch_size]]

    shapes = (tf.TensorSpec([None, *store.shape[1:]], store.dtype), tf.TensorSpec([None], tf.int64))
    data = (
        random_numbers(seed, first_epoch)
        .take(1)
        .flat_map(lambda seed: tf.data.Dataset.from_generator(batches, output_signature=shapes, args=[seed]))
    )
    return data.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)
