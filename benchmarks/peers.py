"""Frozen graphs of others beside ours, on the same clips: python benchmarks/peers.py CORPUS FOLDER

CORPUS is one whose notebooks 0 to 5 have run with PROFILE=full, FOLDER has frozen graphs (.pb) with the contest's tensors, for
example the DS-CNN of https://github.com/ARM-software/ML-KWS-for-MCU. Accuracies on the spoken validation and test clips with
McNemar's test against ours, and milliseconds on one thread, go to data/<corpus>/peers.csv.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kws.audio import to_float  # noqa: E402
from kws.deploy import load_graph  # noqa: E402
from kws.inference import one_thread  # noqa: E402
from kws.infra.corpora import open_place  # noqa: E402
from kws.infra.experiments import circumstances  # noqa: E402
from kws.metrics import mcnemar, score  # noqa: E402
from kws.models import label_numbers  # noqa: E402
from kws.pi import time_runs  # noqa: E402
from kws.preprocess import open_store  # noqa: E402


def main(corpus, folder):
    one_thread()
    place = open_place(corpus, "full", 0)
    files = [place.work / "frozen.pb", *sorted(Path(folder).glob("*.pb"))]
    spoken = place.manifest.speaker != ""
    rows = {split: np.flatnonzero((place.manifest.split == split) & spoken) for split in ("val", "test")}
    sound = {split: to_float(open_store(place, "pcm")[numbers]) for split, numbers in rows.items()}
    table, ours = [], {}
    for file in tqdm(files):
        predict, row = load_graph(file), {"graph": file.name, "bytes": file.stat().st_size}
        for split, clips in sound.items():
            truth = label_numbers(place.manifest)[rows[split]]
            guess = np.array([predict(clip).argmax() for clip in clips])
            scores = score(truth, guess)
            row |= {f"{split} {key}": scores[key] for key in ("accuracy", "low", "high", "n")}
            row[f"{split} p"] = mcnemar(truth, ours.setdefault(split, guess), guess)["p"]
        row["ms"] = np.median(time_runs(partial(predict, sound["test"][0])))
        table.append(row | circumstances())
    pd.DataFrame(table).to_csv(place.work / "peers.csv", index=False)
    print(pd.DataFrame(table).filter(regex="graph|accuracy| p|ms").round(3).to_string())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
