"""Whether the search for anomalies takes a whole corpus: python benchmarks/anomalies.py [corpus] [clips ...]

Describes 4,000, 16,000 and 65,000 clips (a smaller corpus is repeated) and finds their anomalies, each size in a process of
its own, so that its peak memory counts alone.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd

from kws.infra.corpora import get_corpus, make_manifest
from kws.visualize import describe_corpus, find_anomalies, list_anomalies


def megabytes():
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(corpus, n):
    """Seconds and memory for `n` clips, printed as a line."""
    with tempfile.TemporaryDirectory() as work:
        manifest = make_manifest(get_corpus(corpus, "sample"), work).manifest
        spoken = manifest[(manifest.speaker != "") & (manifest.split == "train")]
        clips = spoken.iloc[np.arange(n) % len(spoken)].reset_index(drop=True)
        before, start = megabytes(), time.perf_counter()
        descriptions = describe_corpus(clips, work)
        described = time.perf_counter() - start
        odd = list_anomalies(find_anomalies(clips, descriptions))
        seconds = time.perf_counter() - start
    print(
        f"{n:>6,} clips ({min(n, len(spoken)):,} different): {seconds:5.1f} s, {n / described:,.0f} clips/s described, "
        f"PCA and list {seconds - described:.1f} s; memory {before:,.0f} MB before, {megabytes():,.0f} MB at its peak; "
        f"{odd.path.nunique():,} files odd",
        flush=True,
    )


def main():
    corpus = sys.argv[1] if len(sys.argv) > 1 else "synthetic"
    sizes = [int(n) for n in sys.argv[2:]] or [4_000, 16_000, 65_000]
    if len(sizes) == 1:
        return measure(corpus, sizes[0])
    print(f"{os.cpu_count()} CPU cores, pandas {pd.__version__}, numpy {np.__version__}", flush=True)
    for n in sizes:
        subprocess.run([sys.executable, __file__, corpus, str(n)], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
