"""A public benchmark, the Arabic Speech Commands: python benchmarks/arabic.py [--model NAME] [--epochs N] [--seed N] ...

Trains a model on the 18 speakers of the data set's own training split, all forty words as commands, and asks it which of the
forty words each of the 2,400 validation clips and of the 2,400 test clips says (6 speakers each; silence and unknown are no
answers). The same for its int8 model. A row for each training goes to benchmarks/results/arabic/results.csv; the models,
<tag>.keras, <tag>.tflite and <tag>_int8.tflite, stay in data/arabic. Whatever is chosen is to be chosen by the column val.
Run again, a training that was stopped resumes, and one that is there is only scored.

--voices N   also trains on the words as N voices of espeak-ng say them (models in data/arabic/voices<N>)
--teachers   tags of models trained with the same --voices, whose mean prediction becomes part of the targets
--against    the tag of a model to be compared with, on the same clips, by McNemar's test
--start      a .keras file of the same network, trained on other words, to begin with (all layers but the last)
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from kws.audio import recordings, to_float
from kws.deploy import freeze, to_litert
from kws.inference import load_model, load_predictor
from kws.infra.arabic import ARABIC_WORDS
from kws.infra.corpora import commands_of, get_corpus, make_manifest, work_dir
from kws.infra.experiments import cached_row
from kws.infra.files import read_json
from kws.infra.runs import AUGMENTATIONS, Options, train
from kws.infra.synthetic import make_synthetic
from kws.metrics import mcnemar, wilson
from kws.models import label_numbers
from kws.preprocess import open_store, write_store
from kws.split import Place, labels_of
from kws.training import predict_rows
from kws.zoo import ZOO


def with_voices(place, count):
    """The Place with the words of `count` voices of espeak-ng among its training clips."""
    texts = {word: text for word, (_, _, text) in ARABIC_WORDS.items()}
    spoken = make_synthetic(
        f"data/raw/arabic-voices{count}", "all", sizes={"all": (count, 1, 0, 2)}, words=texts, accents=("ar",)
    )
    rows = [(path.as_posix(), path.parent.name, path.stem.split("_")[0]) for path in recordings(spoken)]
    clips = pd.DataFrame(rows, columns=["path", "word", "speaker"])
    clips = clips.assign(label=clips.word, split="train", sample=False, start=0, gain=1.0)
    manifest = pd.concat([place.manifest, clips[place.manifest.columns]], ignore_index=True)
    manifest["label"] = pd.Categorical(manifest.label, labels_of(place.manifest))
    return Place.of(place.work / f"voices{count}", manifest, place.folder)


def answers_of(probabilities):
    """Label numbers [n] from probabilities [n, labels]: the first two labels are no answers."""
    return probabilities[:, 2:].argmax(1) + 2


def scores(name, right):
    """Share of right answers, its Wilson interval and the number of clips, as columns of a row."""
    low, high = wilson(right.sum(), len(right))
    return {name: right.mean(), f"{name}_low": low, f"{name}_high": high, f"{name}_n": len(right)}


def write_litert(path, pcm, manifest):
    """Write the models for LiteRT beside a .keras file, float and int8; returns their paths."""
    train_rows = np.flatnonzero((manifest.split == "train") & (manifest.speaker != ""))
    chosen = np.sort(np.random.default_rng(0).permutation(train_rows)[:200])
    frozen = freeze(load_model(path))
    files = path.with_suffix(".tflite"), path.with_name(f"{path.stem}_int8.tflite")
    files[0].write_bytes(to_litert(frozen))
    files[1].write_bytes(to_litert(frozen, to_float(pcm[chosen])))
    return files


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tc_resnet14", choices=ZOO)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=6e-3)
    parser.add_argument("--augmentations", default="standard", choices=AUGMENTATIONS)
    parser.add_argument("--voices", type=int, default=0)
    parser.add_argument("--teachers", nargs="*", default=[])
    parser.add_argument("--start", type=Path)
    parser.add_argument("--against", default="tc_resnet14-60-seed0-0.006")
    parser.add_argument("--corpus", default="arabic")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/arabic/results.csv"))
    args = parser.parse_args()

    folder, work = get_corpus(args.corpus), work_dir(args.corpus, "full")
    place = make_manifest(folder, work, "full", words=commands_of("arabic"))
    place = with_voices(place, args.voices) if args.voices else place
    for feature in {"pcm", ZOO[args.model].feature}:
        write_store(place, feature)
    manifest, pcm = place.manifest, open_store(place, "pcm")
    asked = {
        split: np.flatnonzero((manifest.split == split) & (manifest.speaker != ""))
        for split in ("val", "test")
    }
    labels = label_numbers(manifest)

    settings = f"{args.model}-{args.epochs}-seed{args.seed}-{args.rate:g}"
    settings += "-strong" if args.augmentations == "strong" else ""
    settings += f"-from-{args.start.stem}" if args.start else ""
    tag = settings + f"-taught{len(args.teachers)}" if args.teachers else settings
    teachers = tuple(place.work / f"{name}.keras" for name in args.teachers)
    if teachers:
        together = np.mean([predict_rows(load_model(path), pcm, asked["val"]) for path in teachers], axis=0)
        print(
            f"the teachers together: {(answers_of(together) == labels[asked['val']]).mean():.2%} of validation"
        )
    options = Options(
        args.model,
        args.epochs,
        args.seed,
        teachers=teachers,
        start=args.start,
        exclude=("dense",) if args.start else (),
        learning_rate=args.rate,
        augmentations=args.augmentations,
    )
    path = train(place, options, tag)

    row, predict, against = {}, load_model(path), load_model(work / f"{args.against}.keras")
    for split, rows in asked.items():
        said, first = (answers_of(predict_rows(model, pcm, rows)) for model in (predict, against))
        row |= scores(split, said == labels[rows])
        pair = mcnemar(labels[rows], first, said)
        row |= {
            f"{split}_lost": pair["only_first"],
            f"{split}_gained": pair["only_second"],
            f"{split}_p": pair["p"],
        }
    for file in write_litert(path, pcm, manifest):
        row["bytes_int8" if "int8" in file.stem else "bytes"] = file.stat().st_size
    predict_int8 = load_predictor(file)
    for split, rows in asked.items():
        row |= scores(f"{split}_int8", answers_of(predict_int8(to_float(pcm[rows]))) == labels[rows])
    note, history = read_json(path.with_suffix(".json")), pd.read_csv(path.with_suffix(".csv"))
    row |= {"parameters": predict.count_params(), "MACs": note["MACs"], "seconds": note["seconds"]}
    row |= {"best_epoch": int(history.val_accuracy.argmax()) + 1, "manifest": place.fingerprint}
    key = {
        name: getattr(args, name) for name in ("model", "epochs", "seed", "rate", "augmentations", "voices")
    }
    key |= {"teachers": " ".join(args.teachers) or "-", "start": args.start.name if args.start else "-"}
    print(pd.Series(cached_row(args.results, key, lambda: row)).to_string())


if __name__ == "__main__":
    main()
