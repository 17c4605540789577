"""Our model beside other people's frozen graphs, on the same clips in the same run: python benchmarks/peers.py WORK GRAPH.pb ...

WORK is a working folder of the course, data/<corpus>, with manifest, pcm store and frozen.pb. Each graph takes
decoded_sample_data:0 and gives labels_softmax:0 in the course's label order, as the contest wanted. One thread.
Writes WORK/peers.csv.
"""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from kws.deploy import load_graph
from kws.models import circumstances, label_numbers, score
from kws.pi import time_runs
from kws.preprocess import open_store
from kws.split import read_manifest


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    work, graphs = Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]]
    manifest = read_manifest(work)
    pcm, labels = open_store(work, "pcm", manifest), label_numbers(manifest)
    table = []
    for path in [work / "frozen.pb", *graphs]:
        says, row = load_graph(path), {"graph": path.name, "bytes": path.stat().st_size}
        for split in ("val", "test"):
            rows = np.flatnonzero((manifest.split == split) & (manifest.speaker != ""))
            predicted = [says(clip / np.float32(32_768)).argmax() for clip in pcm[rows]]
            result = score(labels[rows], predicted)
            row |= {f"{split} {key}": result[key] for key in ("accuracy", "low", "high", "n")}
        row["ms"] = np.median(time_runs(partial(says, pcm[0] / np.float32(32_768))))
        table.append(row)
    table = pd.DataFrame(table)
    for key, value in circumstances().items():
        table[key] = value
    table.to_csv(work / "peers.csv", index=False)
    print(table.drop(columns=list(circumstances())).round(4).to_string(index=False))
    print(time.strftime("%Y-%m-%d"), circumstances()["hardware"])


if __name__ == "__main__":
    main()
