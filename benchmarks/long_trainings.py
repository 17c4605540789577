"""Do the long trainings of two models differ? python benchmarks/long_trainings.py CORPUS MODEL MODEL

CORPUS is one in whose working folder both are trained (<model>.keras, by notebook 4 with MODEL=..., PROFILE=full). Accuracies are
of the spoken clips of the validation and test split; only_this are the validation clips that this model alone gets right,
only_other those that only the other one does (for McNemar's test). Writes benchmarks/results/<corpus>/long_trainings.csv.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kws.inference import load_model  # noqa: E402
from kws.infra.corpora import open_place  # noqa: E402
from kws.infra.files import read_json, write_csv  # noqa: E402
from kws.metrics import mcnemar  # noqa: E402
from kws.training import evaluate  # noqa: E402

KEPT = ["model", "epochs", "learning_rate", "seed", "MACs", "seconds"]


def main(corpus, *names):
    place = open_place(corpus, "full", 0)
    rows, answers, truth = [], [], {}
    for name in names:
        path = place.work / f"{name}.keras"
        note, model = read_json(path.with_suffix(".json")), load_model(path)
        row, predicted = {key: note[key] for key in KEPT} | {"parameters": model.count_params()}, {}
        for split, column in (("val", "validation"), ("test", "test")):
            spoken = (place.manifest.speaker[place.manifest.split == split] != "").to_numpy()
            _, labels, probabilities = evaluate(model, place, split)
            truth[split], predicted[split] = labels[spoken], probabilities.argmax(1)[spoken]
            row |= {column: np.mean(predicted[split] == truth[split]), f"n_{column}": int(spoken.sum())}
        rows.append(row | {key: note[key] for key in ("hardware", "date")})
        answers.append(predicted["val"])
    pair = mcnemar(truth["val"], *answers)
    for row, this, other in zip(rows, ("first", "second"), ("second", "first")):
        row |= {"only_this": pair[f"only_{this}"], "only_other": pair[f"only_{other}"]}
    folder = ROOT / "benchmarks/results" / place.work.name
    write_csv(folder / "long_trainings.csv", pd.DataFrame(rows))
    print(pd.DataFrame(rows).round(4).to_string(), pair)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
