"""Rows of numbers on disk, compressed, in shards: computed once, gone on with after a stop, and refused where they do not fit."""

from __future__ import annotations

import errno
import functools
import importlib.metadata
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from kws.audio import FULL_SCALE
from kws.infra.cluster import run_each
from kws.infra.files import (
    CourseError,
    check_number,
    describe_differences,
    exclusive_write,
    is_made,
    part_of,
    remove,
    replace_folder,
    restore_folder,
    write_json,
)

try:
    import bcolz
except ImportError:
    bcolz = None

LIBRARY = "bcolz" if bcolz else "blosc2"
CHUNK = 32  # rows that are compressed together


def create_array(path: Path, shape: Sequence[int], dtype: Any, rows: int, library: str | None = None) -> Any:
    """Empty array on disk for `rows` rows of `shape`: by bcolz where it is installed, by blosc2 otherwise."""
    if (library or LIBRARY) == "bcolz":
        empty = np.empty((0, *shape), dtype)
        return bcolz.carray(empty, rootdir=str(path), mode="w", expectedlen=rows, chunklen=CHUNK)
    import blosc2

    return blosc2.empty(
        (0, *shape),
        dtype=dtype,
        urlpath=str(path),
        mode="w",
        chunks=(CHUNK, *shape),
        contiguous=False,
        cparams=blosc2.CParams(codec=blosc2.Codec.LZ4, nthreads=1),
    )


def append_rows(array: Any, rows: np.ndarray) -> None:
    """Append rows to an open array on disk, and to the disk."""
    if hasattr(array, "chunklen"):  # bcolz
        threads = bcolz.set_nthreads(1)
        array.append(rows)
        array.flush()
        bcolz.set_nthreads(threads)
        return
    try:
        array.resize((len(array) + len(rows), *rows.shape[1:]))
        array[-len(rows) :] = rows
    except RuntimeError as error:  # that is all blosc2 says of a full disk
        if shutil.disk_usage(array.urlpath).free > rows.nbytes:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def _notes(array: Any) -> Any:
    """What is kept with an array on disk, as a mapping: `attrs`, which blosc2 before 4.13 knows as `vlmeta` only."""
    return array.attrs if hasattr(array, "attrs") else array.vlmeta


class Shards:
    """A folder of arrays on disk that follow each other, as one: shape, dtype, attrs, rows by slice or by number.

    Each array is opened when it is first read.
    """

    chunklen = CHUNK

    def __init__(self, folder: Path):
        note = json.loads((Path(folder) / "store.json").read_text(encoding="utf-8"))
        self.attrs, self.shard = note["attrs"], note["shard"]
        self.shape, self.dtype = tuple(note["shape"]), np.dtype(note["dtype"])
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self.open_shard = functools.lru_cache(1_024)(lambda first: _open_shard(shard_path(folder, first)))
        for first in range(0, len(self), self.shard):
            if not shard_path(folder, first).exists():
                raise FileNotFoundError(shard_path(folder, first))
        self.open_shard(0)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            numbers = np.arange(len(self))[rows]
            return read_rows(self, numbers.reshape(-1)).reshape(*numbers.shape, *self.shape[1:])
        begin, end, _ = rows.indices(len(self))
        pieces = [np.empty((0, *self.shape[1:]), self.dtype)]
        for first in range(begin - begin % self.shard, end, self.shard):
            pieces.append(self.open_shard(first)[max(begin - first, 0) : end - first])
        return np.concatenate(pieces)


def shard_path(folder: Path, first: int) -> Path:
    """Where the shard is whose first row has this number."""
    return Path(folder) / f"{first:09}.bc"


def _checksum(path: Path) -> str:
    """CRC-32 of the names and contents of all files of a shard."""
    crc = 0
    for file in sorted(file for file in Path(path).rglob("*") if file.is_file() and file.name != "crc32"):
        crc = zlib.crc32(file.relative_to(path).as_posix().encode(), crc)
        crc = zlib.crc32(file.read_bytes(), crc)
    return f"{crc:08x}"


def _open_shard(path: Path) -> Any:
    """Open a shard; CourseError where it is not as it was written."""
    try:
        whole = (path / "crc32").read_text(encoding="ascii") == _checksum(path)
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise CourseError(f"{path}: damaged. Delete {path.parent}, and run 2_preprocess_augment.ipynb again")
    return open_array(path)


def open_array(path: str | Path) -> Any:
    """Open an array of `create_array`, or a store of them, for reading: shape, slicing, attrs.

    CourseError where its library is missing.
    """
    path = Path(path)
    if (path / "store.json").exists():
        return Shards(path)
    if (path / "chunks.b2frame").exists():
        try:
            import blosc2
        except ImportError as error:
            raise CourseError(f"{path}: written by blosc2, which is not installed here") from error
        array = blosc2.open(str(path), mode="r")
    elif bcolz is None:
        raise CourseError(f"{path}: written by bcolz, which is not installed here")
    else:
        array = bcolz.open(str(path), mode="r")
    if array.dtype.kind not in "iuf":  # bcolz would unpickle objects, and that runs what they say
        raise CourseError(f"{path}: holds no numbers, and is not opened")
    return array


def chunk_rows(store: Any) -> int:
    """Rows per compressed chunk of an array on disk, bcolz or blosc2; 32 for an array in memory."""
    return getattr(store, "chunklen", None) or getattr(store, "chunks", (CHUNK,))[0]


def read_rows(store: Any, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Some rows of a store [rows, ...], in any order and with repeats; each chunk is unpacked once."""
    rows, size = np.asarray(rows), chunk_rows(store)
    values = np.empty((len(rows), *store.shape[1:]), store.dtype)
    order = np.argsort(rows, kind="stable")
    chunks, first = np.unique(rows[order] // size, return_index=True)
    for chunk, places in zip(chunks, np.split(order, first[1:])):
        values[places] = store[chunk * size : (chunk + 1) * size][rows[places] - chunk * size]
    return values


@functools.lru_cache(maxsize=2)
def load_cached(path: str | Path, version: str) -> np.ndarray:
    """All of an array on disk; `version` tells apart what has been at the same place. Many trainings share it."""
    return open_array(path)[:]


def store_fault(path: Path, record: dict) -> str:
    """Why the store at `path` cannot be used as one that says `record` of itself; an empty string if it can."""
    if not path.exists():
        return "not there yet"
    try:
        found = open_array(path).attrs["record"]
        differences = describe_differences(found, record)
    except CourseError as error:
        return str(error).removeprefix(f"{path}: ")
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError):
        return "not a store of this course"
    if found.get("manifest") != record["manifest"]:
        return "made from another manifest"
    return f"made with other parameters: {differences}" if differences else ""


def partial_sums(rows: np.ndarray, train: np.ndarray) -> tuple[list, list, int]:
    """Sum, sum of squares and number of the values in each bin, of the rows where the mask `train` is true.

    PCM, int16, counts as one bin in [-1, 1).
    """
    values = rows[train].astype("float64")
    values = (
        values.reshape(-1, 1) / FULL_SCALE if rows.dtype == np.int16 else values.reshape(-1, rows.shape[-1])
    )
    return values.sum(0).tolist(), (values**2).sum(0).tolist(), len(values)


def statistics_of(sums: Iterable[tuple]) -> dict[str, list[float]]:
    """Mean and standard deviation of each bin from the `partial_sums` of some arrays: two lists of numbers.

    A bin that never changes gets the standard deviation 0.001.
    """
    total, squares, count = (np.sum(column, axis=0) for column in zip(*sums))
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
    return {"mean": mean.tolist(), "std": std.tolist()}


def _write_shard(folder: Path, compute: Callable, library: str | None, part: tuple[int, pd.DataFrame]) -> int:
    """Compute `part`, a pair of the first row's number and rows of the manifest; returns how many.

    Its array is in `folder` when it is whole, or not at all, also where two workers make the same.
    """
    first, rows = part
    path = shard_path(folder, first)
    unfinished = part_of(path, uuid.uuid4().hex)
    values = compute(rows)
    array = create_array(unfinished, values.shape[1:], values.dtype, len(rows), library)
    append_rows(array, values)
    _notes(array)["sums"] = partial_sums(values, (rows.split == "train").to_numpy())
    del array
    (unfinished / "crc32").write_text(_checksum(unfinished), encoding="ascii")
    try:
        unfinished.rename(path)
    except OSError:
        if not path.exists():
            raise
        shutil.rmtree(unfinished)
    return len(rows)


def _write_shards(
    folder: Path,
    manifest: pd.DataFrame,
    compute: Callable,
    settings: dict,
    shard: int,
    client: Any,
    library: str | None,
) -> None:
    """Compute all rows of the manifest into shards in `folder`; those of the same settings are kept."""
    note = folder / "settings.json"
    if not is_made(note, settings):
        remove(folder)
        folder.mkdir(parents=True)
        write_json(note, settings)
    _clear_unfinished(folder)
    starts = [at for at in range(0, len(manifest), shard) if not shard_path(folder, at).exists()]
    missing = sum(len(manifest[at : at + shard]) for at in starts)
    parts = ((at, manifest[at : at + shard]) for at in starts)
    bar = {"desc": folder.name.partition(".")[0], "unit": "clip", "mininterval": 1}
    with tqdm(total=len(manifest), initial=len(manifest) - missing, **bar) as progress:
        write = functools.partial(_write_shard, folder.resolve(), compute, library)
        for count in run_each(write, parts, client):
            progress.update(count)
    _clear_unfinished(folder)  # of workers that were killed


def _clear_unfinished(folder: Path) -> None:
    """Delete what a killed maker left in a folder of shards: shards, and a note, under their temporary names."""
    for unfinished in folder.glob("*.part"):
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def _complete(folder: Path, rows: int, attributes: dict, shard: int) -> None:
    """Make a folder with all its shards a store: write store.json, with the statistics of the training rows."""
    arrays = [open_array(shard_path(folder, at)) for at in range(0, rows, shard)]
    attributes = attributes | {"statistics": statistics_of(_notes(array)["sums"] for array in arrays)}
    shape, dtype = (rows, *arrays[0].shape[1:]), str(arrays[0].dtype)
    write_json(folder / "store.json", {"shape": shape, "dtype": dtype, "shard": shard, "attrs": attributes})


def _versions(library: str) -> dict[str, str]:
    """Versions of what makes the numbers and the file, and the name of the library that writes the store."""
    packages = ("bcolz-zipline" if library == "bcolz" else library, "tensorflow", "librosa", "numpy")
    return {"written_by": library} | {name: importlib.metadata.version(name) for name in packages}


def make_store(
    path: Path,
    record: dict,
    manifest: pd.DataFrame,
    compute: Callable[[pd.DataFrame], np.ndarray],
    shard: int = 1_024,
    client: Any = None,
    library: str | None = None,
) -> Any:
    """Compute all rows of a manifest into the store `path`, and open it; one that says `record` of itself is left as it is.

    Killed, the next call goes on with the shards that are there. Mean and standard deviation over the training rows are
    kept in its attrs.

    Parameters
    ----------
    compute : function of some rows of the manifest -> array [rows, ...]
    shard : rows of a shard, a multiple of CHUNK
    client : dask.distributed.Client whose workers compute the shards; they see `path` and the recordings under the same paths
    library : bcolz or blosc2 (default: the one that is installed)

    Raises
    ------
    CourseError: the disk is full or cannot be written to.
    """
    check_number("rows of the manifest", len(manifest), 1)
    check_number("shard", shard, 1)
    if library not in (None, "bcolz", "blosc2"):
        raise CourseError(f"library={library}: there are bcolz and blosc2")
    part = part_of(path)
    with exclusive_write(path):
        restore_folder(path)
        if store_fault(path, record):
            attributes = {"record": record, **_versions(library or LIBRARY)}
            if store_fault(part, record):
                _write_shards(part, manifest, compute, attributes | {"shard": shard}, shard, client, library)
                _complete(part, len(manifest), attributes, shard)
            (part / "settings.json").unlink(missing_ok=True)
            replace_folder(part, path)
        remove(part)
    return open_array(path)
