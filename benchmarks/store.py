"""Making and reading a store of 65,000 clips: python benchmarks/store.py [--corpus FOLDER] [--results FILE] [--clips N ...]

The corpus is a folder in the contest's layout, such as one of `make_synthetic(FOLDER, "full")`; without one it is made
first, in a temporary folder (two minutes, 2.2 GB). Each size is made in a process of its own, for its time and its peak
memory. Then the largest is read: in shuffled pools and in order, from a memory-mapped .npy file, and computed again. With
--results the numbers are written to a csv file. Exits with an error where 65,000 clips take more than 90 s or 1.5 GB, or where
four times as many clips take more than six times as long.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from kws.infra.batches import shuffled_batches
from kws.infra.corpora import make_manifest
from kws.infra.experiments import circumstances
from kws.infra.synthetic import make_synthetic
from kws.preprocess import compute_rows, open_store, write_store
from kws.split import Place, read_manifest

BATCH = 100


def sample_rows(work, clips):
    """A Place with `clips` random rows of the manifest, in its order."""
    manifest = read_manifest(work)
    rows = manifest.sample(min(clips, len(manifest)), random_state=0).sort_index().reset_index(drop=True)
    return Place.of(Path(work) / str(clips), rows)


def make(work, clips):
    """Make a log-mel store in this process; returns what it took."""
    place = sample_rows(work, clips)
    folder, manifest = place.work, place.manifest
    start = time.perf_counter()
    write_store(place, "log_mel")
    seconds = time.perf_counter() - start
    return {
        "what": "wav files to log-mel store",
        "clips": len(manifest),
        "seconds": round(seconds, 1),
        "ms per 100 clips": round(1e5 * seconds / len(manifest), 2),
        "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "MB on disk": round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6),
    }


def read(work, clips):
    """Read the store in several ways: one row per way."""
    place = sample_rows(work, clips)
    store, manifest = open_store(place, "log_mel"), place.manifest
    n, rng = len(manifest), np.random.default_rng(0)
    copy = np.lib.format.open_memmap(Path(work) / "copy.npy", "w+", store.dtype, store.shape)
    for at in range(0, n, 2_048):
        copy[at : at + 2_048] = store[at : at + 2_048]
    copy.flush()
    mapped, order = np.load(Path(work) / "copy.npy", mmap_mode="r"), rng.permutation(n)
    in_order = [slice(at, at + BATCH) for at in range(0, n, BATCH)]
    shuffled = [order[at : at + BATCH] for at in range(0, n, BATCH)]
    few = manifest.iloc[order[:4_000]]
    ways = {
        "store, shuffled in pools": (
            n,
            lambda: sum(len(y) for _, y in shuffled_batches(store, order, order)),
        ),
        "store, in order": (n, lambda: [store[at] for at in in_order]),
        "memory-mapped .npy, shuffled": (n, lambda: [mapped[at] for at in shuffled]),
        "memory-mapped .npy, in order": (n, lambda: [np.array(mapped[at]) for at in in_order]),
        "computed from wav files": (len(few), lambda: compute_rows("log_mel", few)),
    }
    rows = []
    for name, (count, act) in ways.items():
        start = time.perf_counter()
        act()
        seconds = time.perf_counter() - start
        ms = round(1e5 * seconds / count, 2)
        rows.append({"what": name, "clips": count, "seconds": round(seconds, 1), "ms per 100 clips": ms})
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", help="folder of a corpus")
    parser.add_argument("--results", help="csv file to write")
    parser.add_argument("--clips", type=int, nargs="+", default=[4_000, 16_000, 65_000])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # this process makes one store: WORK CLIPS
    args = parser.parse_args()
    if args.one:
        print(json.dumps(make(args.one[0], int(args.one[1]))))
        return
    with tempfile.TemporaryDirectory() as work:
        corpus = args.corpus or make_synthetic(Path(work) / "corpus", "full", 0)
        make_manifest(corpus, work, "full")
        rows = []
        for clips in args.clips:
            command = [sys.executable, __file__, "--one", work, str(clips)]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        table = pd.DataFrame(rows + read(work, args.clips[-1])).assign(seed=0, **circumstances())
    print(table.drop(columns=list(circumstances())).to_string(index=False, na_rep=""))
    if args.results:
        table.to_csv(args.results, index=False)
    largest = rows[-1]
    slow = largest["clips"] >= 64_000 and (largest["seconds"] > 90 or largest["peak MB"] > 1_500)
    bent = any(b["seconds"] > 1.5 * a["seconds"] * b["clips"] / a["clips"] for a, b in zip(rows, rows[1:]))
    if slow or bent:
        raise SystemExit("too slow, too large, or not in proportion to the number of clips")


if __name__ == "__main__":
    main()
