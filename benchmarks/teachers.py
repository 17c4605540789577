"""What teachers bring: python benchmarks/teachers.py START.keras TEACHER.keras ... [--epochs N] [--seed N]

A model goes on training, its targets mixed with the mean answer of the teachers, which read the same feature. Compares it, and
the teachers' mean, with the model that it began as, on the same spoken clips of validation and test, by McNemar's test. Rows
go to benchmarks/results/<corpus>/teachers.csv. What is chosen is to be chosen by the columns of val.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from kws.inference import load_model
from kws.infra.corpora import get_corpus, make_manifest, work_dir
from kws.infra.experiments import circumstances
from kws.infra.files import write_csv
from kws.infra.runs import Options, train
from kws.metrics import mcnemar, wilson
from kws.models import label_numbers
from kws.preprocess import open_store
from kws.training import predict_rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("start", type=Path)
    parser.add_argument("teachers", type=Path, nargs="+")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=6e-3)
    parser.add_argument("--corpus", default="data/raw/speech_commands_16k")
    args = parser.parse_args()
    folder, work = get_corpus(args.corpus), work_dir(args.corpus, "full")
    place = make_manifest(folder, work, "full")
    options = Options(
        args.start.stem,
        args.epochs,
        args.seed,
        ("train", "held"),
        teachers=tuple(args.teachers),
        start=args.start,
        learning_rate=args.rate,
    )
    taught = train(place, options, f"{args.start.stem}-taught{len(args.teachers)}-{args.epochs}-{args.seed}")
    manifest, pcm = place.manifest, open_store(place, "pcm")
    names = [path.stem for path in args.teachers]
    rows = [{"model": f"{args.start.stem}, taught by {', '.join(names)}", "epochs": args.epochs, "seed": args.seed},
            {"model": f"mean of {', '.join(names)}"}]  # fmt: skip
    for split in ("val", "test"):
        asked = np.flatnonzero((manifest.split == split) & (manifest.speaker != ""))
        labels = label_numbers(manifest)[asked]
        said = {
            path: predict_rows(load_model(path), pcm, asked) for path in {taught, args.start, *args.teachers}
        }
        together = np.mean([said[path] for path in args.teachers], axis=0)
        for row, answers in zip(rows, (said[taught], together)):
            pair = mcnemar(labels, said[args.start].argmax(1), answers.argmax(1))
            right = int((answers.argmax(1) == labels).sum())
            row |= {split: right / len(asked), f"{split} n": len(asked)}
            row |= dict(zip((f"{split} low", f"{split} high"), wilson(right, len(asked))))
            row |= {
                f"{split} lost": pair["only_first"],
                f"{split} gained": pair["only_second"],
                f"{split} p": pair["p"],
            }
    results = Path("benchmarks/results") / work.name / "teachers.csv"
    kept = pd.read_csv(results) if results.exists() else pd.DataFrame()
    rows = pd.DataFrame([row | circumstances() for row in rows])
    write_csv(results, pd.concat([kept, rows], ignore_index=True))
    print(rows.T)


if __name__ == "__main__":
    main()
