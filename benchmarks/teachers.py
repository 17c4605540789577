"""What teachers bring: python benchmarks/teachers.py START.keras TEACHER.keras ... [--epochs N] [--seed N] [--unlabelled]

A model goes on training, its targets mixed with the mean answer of the teachers, which read the same feature. With --unlabelled
it also learns from the unlabelled test clips on which all teachers agree; with --epochs 0 nothing is trained. Compares it, the
teachers and their mean with the model that it began as, on the same spoken clips of validation and test, by McNemar's test. Rows
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
from kws.infra.runs import Options, pseudo_labelled, train, with_unlabelled
from kws.metrics import mcnemar, score
from kws.models import label_numbers
from kws.preprocess import open_store, write_store
from kws.split import Place
from kws.training import predict_rows


def with_agreed(place, teachers):
    """A Place with the unlabelled clips on which the teachers agree as rows of split `pseudo`, and its stores."""
    both = Place.of(place.work / "unlabelled", with_unlabelled(place), place.folder)
    rows = np.flatnonzero(both.manifest.split == "unlabelled")
    pcm = write_store(both, "pcm")
    said = np.stack([predict_rows(load_model(path), pcm, rows) for path in teachers])
    names = "-".join(path.stem for path in teachers)
    agreed = Place.of(place.work / f"agreed-{names}", pseudo_labelled(both.manifest, said), place.folder)
    for feature in ("pcm", "log_mel"):
        write_store(agreed, feature)
    print(f"{(agreed.manifest.split == 'pseudo').sum():,} of {len(rows):,} unlabelled clips agreed upon")
    return agreed


def compared(split, labels, base, answers):
    """Accuracy of answers [n, labels] with its interval, and what they lose and gain against others: a dict."""
    pair = mcnemar(labels, base.argmax(1), answers.argmax(1))
    right = score(labels, answers.argmax(1))
    values = {"": right["accuracy"], " n": right["n"], " low": right["low"], " high": right["high"]}
    values |= {" lost": pair["only_first"], " gained": pair["only_second"], " p": pair["p"]}
    return {split + name: value for name, value in values.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("start", type=Path)
    parser.add_argument("teachers", type=Path, nargs="+")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=6e-3)
    parser.add_argument("--unlabelled", action="store_true")
    parser.add_argument("--corpus", default="data/raw/speech_commands_16k")
    args = parser.parse_args()
    folder, work = get_corpus(args.corpus), work_dir(args.corpus, "full")
    place = make_manifest(folder, work, "full")
    if args.unlabelled:
        place = with_agreed(place, args.teachers)
    names, started = ", ".join(path.stem for path in args.teachers), load_model(args.start)
    models = {(path.stem, "", ""): load_model(path) for path in args.teachers}
    if args.epochs:
        options = Options(
            args.start.stem.split("-")[0],
            args.epochs,
            args.seed,
            ("train", "held", "pseudo"),
            teachers=tuple(args.teachers),
            start=args.start,
            learning_rate=args.rate,
        )
        taught = train(
            place, options, f"{args.start.stem}-taught{len(args.teachers)}-{args.epochs}-{args.seed}"
        )
        how = f"{args.start.stem}, taught by {names}{', also unlabelled clips' * args.unlabelled}"
        models[how, args.epochs, args.seed] = load_model(taught)
    manifest, pcm, rows = place.manifest, open_store(place, "pcm"), {}
    for split in ("val", "test"):
        asked = np.flatnonzero((manifest.split == split) & (manifest.speaker != ""))
        labels, base = label_numbers(manifest)[asked], predict_rows(started, pcm, asked)
        said = {name: predict_rows(model, pcm, asked) for name, model in models.items()}
        together = np.mean([said[path.stem, "", ""] for path in args.teachers], axis=0)
        for name, answers in (said | {(f"mean of {names}", "", ""): together}).items():
            row = rows.setdefault(name, dict(zip(("model", "epochs", "seed"), name)))
            row |= compared(split, labels, base, answers)
    results = Path("benchmarks/results") / work.name / "teachers.csv"
    rows = pd.DataFrame([row | {"beside": args.start.stem} | circumstances() for row in rows.values()])
    rows = rows.replace("", np.nan)  # as they are read back
    print(rows.T)
    if results.exists():
        rows = pd.concat([pd.read_csv(results), rows]).drop_duplicates(
            ["model", "epochs", "seed", "beside"], keep="last"
        )
    write_csv(results, rows)


if __name__ == "__main__":
    main()
