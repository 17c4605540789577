"""A spotter for strangers: python benchmarks/stream.py MODEL.keras [--epochs N] [--reading] [--made SHARE] ...

Goes on training a model of notebook 4 with words further from the middle and louder noise (--epochs 0: takes it as it is), and
asks it, in eight bits, what notebook 5 asks: the commands found in recordings of validation and test speakers, in loud and in
soft noise, at the threshold that finds most validation commands with at most ten false alarms per hour. Beside it: single clips,
and an hour in which a machine reads out the course's texts without the commands. With --reading, half an hour of other reading
is among the unknown clips of the training; --made is the share of computed noise, of many kinds, in the noise of the training.
Rows go to benchmarks/results/<corpus>/stream.csv. What is chosen is to be chosen by the rows of val. Beside a model that it has
trained it leaves what tools/ship_model.py needs.
"""

import argparse
import functools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import soxr
import tensorflow as tf

import kws.infra.runs as runs
from kws.audio import SAMPLE_RATE, to_float, write_wav
from kws.deploy import best_threshold, freeze, hear, to_litert, trade_off
from kws.inference import load_model, load_predictor, split_recording
from kws.infra.corpora import get_corpus, make_manifest, work_dir
from kws.infra.experiments import circumstances
from kws.infra.files import read_json, write_csv, write_json
from kws.infra.synthetic import load_espeak, make_voices
from kws.metrics import score
from kws.models import label_numbers
from kws.pi import KeywordDetector, load_litert
from kws.preprocess import add_noise, gain, open_store, read_noise, shift, speed_perturb, write_store
from kws.split import COMMANDS, Place, labels_of
from kws.training import evaluate

VOLUMES = 0.1, 0.02
# what sounds like a command is none of the machine's words either
ALIKE = "know knows write rite goes offs two".split()


def made_noise(seconds, seed=0):
    """Noise of many kinds, a new one every five seconds: white, through a random filter, swelling, of any volume [samples]."""
    rng, n, parts = np.random.default_rng(seed), 5 * SAMPLE_RATE, [np.zeros(0)]
    octaves = np.log2(np.fft.rfftfreq(n, 1 / SAMPLE_RATE) + 1)
    for _ in range(seconds // 5):
        decibels = np.interp(octaves, range(6, 14), rng.normal(0, 12, 8))
        sound = np.fft.irfft(np.fft.rfft(rng.normal(size=n)) * 10 ** (decibels / 20))
        sound *= np.exp(np.interp(np.arange(n), np.linspace(0, n, 50), rng.normal(0, rng.uniform(), 50)))
        parts.append(10 ** rng.uniform(-1.7, -0.5) * sound / sound.std())
    return np.concatenate(parts).clip(-1, 1).astype("float32")


def for_streams(noise, made=0.0):
    """Augmentations of a training for long recordings: words up to a quarter of a second from the middle, noise up to 0.3."""
    more = made_noise(round(made / (1 - made) * len(noise) / SAMPLE_RATE))
    loud = functools.partial(add_noise, noise=tf.constant(np.concatenate([noise, more])), max_volume=0.3)
    return speed_perturb, functools.partial(shift, max_shift=4_000), gain, loud


def texts(kind):
    """The words of the course's texts (kind md) or lessons (ipynb), without commands and what sounds like one."""
    pages = [path.read_text("utf-8") for path in sorted(Path(".").glob(f"*.{kind}"))]
    if kind == "ipynb":
        cells = [cell for page in pages for cell in json.loads(page)["cells"]]
        pages = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    words = re.findall(r"[A-Za-z]+", " ".join(pages))
    return [word for word in words if word.lower() not in {*COMMANDS, *ALIKE}]


def reading(seconds, words, seed=0):
    """So many seconds of forty machines that read out some words, twelve in a breath: PCM [n] at 16 kHz."""
    say, rng, parts, at = load_espeak(), np.random.default_rng(seed), [], 0
    people = make_voices(40, seed)
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        voice, at = people[rng.integers(len(people))], (at + 12) % (len(words) - 12)
        spoken = say(" ".join(words[at : at + 12]), voice.name, voice.rate, voice.pitch, voice.pitch_range)
        spoken = soxr.resample(spoken, 22_050 * voice.tract, SAMPLE_RATE)
        parts += [voice.loudness * spoken / np.abs(spoken).max(), np.zeros(SAMPLE_RATE // 2)]
    return np.concatenate(parts)[: seconds * SAMPLE_RATE].astype("float32")


def with_reading(place, seconds=2_000):
    """The Place with seconds of reading (other texts, other voices than `judge` has) among its unknown training clips."""
    file = Path("data/raw/reading/reading.wav")
    if not file.exists():
        write_wav(file, reading(seconds, texts("ipynb"), seed=1))
    # twenty words for `draw_epoch`: a fair share of an epoch
    names = [f"reading{n % 20}" for n in range(seconds)]
    rows = pd.DataFrame({"path": file.as_posix(), "word": names, "speaker": "machine", "label": "unknown"})
    rows = rows.assign(split="train", sample=False, start=SAMPLE_RATE * np.arange(seconds), gain=1.0)
    manifest = pd.concat([place.manifest, rows[place.manifest.columns]], ignore_index=True)
    manifest["label"] = pd.Categorical(manifest.label, labels_of(place.manifest))
    place = Place.of(place.work / "reading", manifest, place.folder)
    for feature in ("pcm", "log_mel"):
        write_store(place, feature)
    return place


def judge(path, place):
    """Scores on single clips, and rows: streams of both splits and an hour of reading, in both noises. Writes the int8 file."""
    model, pcm, names = load_model(path), open_store(place, "pcm"), labels_of(place.manifest)
    train = np.flatnonzero(place.manifest.split == "train")
    some = np.sort(np.random.default_rng(0).choice(train, 200, replace=False))
    file = int8_file(path)
    file.write_bytes(to_litert(freeze(model), to_float(pcm[some])))
    int8, rows = load_litert(file), []
    scores = pd.concat([evaluate(model, place, split)[0] for split in ("val", "test")])
    read, noise = reading(3_600, texts("md")), read_noise(place.folder, "test")
    for volume in VOLUMES:
        threshold = None
        for split in ("val", "test", "read out"):
            if split == "read out":
                sound, truth = read + volume * np.resize(noise, len(read)), []
                sound = np.clip(sound, -1, 1).astype("float32")
            else:
                sound, truth, _ = split_recording(place, pcm, split, volume)
            hours = len(sound) / SAMPLE_RATE / 3_600
            curve = trade_off(truth, *hear(int8, sound), hours, functools.partial(KeywordDetector, names))
            threshold = best_threshold(curve) if split == "val" else threshold
            row = curve.set_index("threshold").loc[threshold]
            rows.append({"clips": split, "noise": volume, "threshold": threshold, "hours": hours,
                         "commands": len(truth), "right": row.correct, "another": row.wrong,
                         "alarms": row["false alarms"], "share": row["correct share"],
                         "alarms per hour": row["false alarms per hour"], "low": row.low, "high": row.high})  # fmt: skip
            if truth:
                single, silent = scores.loc[f"{split}, spoken"], scores.loc[f"{split}, silence"]
                rows[-1] |= {"clips right": single.accuracy, "n": single.n}
                rows[-1] |= {"silence right": silent.accuracy, "silence n": silent.n}
    return scores, pd.DataFrame(rows)


def int8_file(path):
    """Where the int8 file of a model is."""
    return path.with_name(f"{path.stem}_int8.tflite")


def write_results(path, place, learned, scores, rows):
    """results.json and labels.txt beside a model that has been judged, from which tools/ship_model.py makes its card."""
    model, file = load_model(path), int8_file(path)
    training = read_json(path.with_suffix(".json"))
    clips = learned.manifest[learned.manifest.split.isin(training["splits"])]
    training |= {"parameters": model.count_params(), "train_clips": int((clips.speaker != "").sum())}
    asked = np.flatnonzero((place.manifest.split == "test") & (place.manifest.speaker != ""))
    said = load_predictor(file)(to_float(open_store(place, "pcm")[asked])).argmax(1)
    words = {"commands": "true", "right": "correct", "another": "wrong", "alarms": "false alarms"}
    words |= {"share": "correct share"}
    rows = rows.assign(minutes=60 * rows.hours).rename(columns=words)
    results = {
        "corpus": place.work.name + " and reading" * (learned is not place),
        "training": training,
        "scores": scores.to_dict("index"),
        "deployed": {file.name: score(label_numbers(place.manifest)[asked], said)},
        "streaming": rows[["clips", "noise", "minutes", "threshold", *words.values()]].to_dict("records"),
    }
    write_json(path.with_name("results.json"), results)
    if learned is not place:
        learned.manifest.to_csv(path.with_name("manifest.csv"), index=False)
    path.with_name("labels.txt").write_text("\n".join(labels_of(place.manifest)) + "\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--reading", action="store_true", help="with running speech among the unknown clips")
    parser.add_argument("--made", type=float, default=0.0, help="share of made noise, below 1")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", default="data/raw/speech_commands_16k")
    args = parser.parse_args()
    if not 0 <= args.made < 1:
        parser.error(f"--made {args.made:g}: 0 or more and less than 1 is wanted")
    folder, work = get_corpus(args.corpus), work_dir(args.corpus, "full")
    place = make_manifest(folder, work, "full")
    path, name, trained = args.model, f"{args.model.stem}, as it is", {}
    if args.epochs:
        learned = with_reading(place) if args.reading else place
        trained = {"epochs": args.epochs, "rate": args.rate, "seed": args.seed}
        variant = f"noise{f' ({args.made:.0%} made)' * (args.made > 0)}, wide"
        runs.AUGMENTATIONS[variant] = functools.partial(for_streams, made=args.made)
        options = runs.Options(
            args.model.stem,
            args.epochs,
            args.seed,
            splits=("train", "held"),
            start=args.model,
            learning_rate=args.rate,
            augmentations=variant,
        )
        made = f"-made{args.made:g}" * (args.made > 0)
        path = runs.train(learned, options, f"{args.model.stem}-stream{made}-{args.epochs}-{args.seed}")
        name = f"{args.model.stem}, {variant}{', reading' * args.reading}"
    scores, rows = judge(path, place)
    if args.epochs:
        write_results(path, place, learned, scores, rows)
    rows = rows.assign(model=name, **trained, **circumstances())
    results = Path("benchmarks/results") / work.name / "stream.csv"
    kept = pd.read_csv(results) if results.exists() else pd.DataFrame()
    write_csv(results, pd.concat([kept, rows], ignore_index=True))
    print(rows[["model", "clips", "noise", "threshold", "share", "alarms per hour", "clips right"]].round(3))


if __name__ == "__main__":
    main()
