"""Seconds and memory that the manifest of a large corpus takes: python benchmarks/manifest.py [corpus folder]

Without a folder the synthetic corpus of profile full is used, 64,800 clips, and spoken first where it is not there.
"""

import resource
import sys
import tempfile
import time

from kws.infra.corpora import get_corpus, make_manifest


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else get_corpus("synthetic", "full")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as work:
        for call in ("first call", "second call"):
            start = time.perf_counter()
            manifest = make_manifest(folder, work, "full").manifest
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(
                f"{call}: {len(manifest):,} rows in {seconds:.1f} s, peak memory {peak / 1e3:,.0f} MB of which"
            )
            print(f"    {before / 1e3:,.0f} MB were taken before")


if __name__ == "__main__":
    main()
