"""Put a trained model into the package: python tools/ship_model.py WORK [--model model_int8.tflite] [--name NAME]

Copies the .tflite and labels.txt of a work folder to kws/models_data/NAME, writes its card from results.json there, and makes
it the model that load_pretrained(), kws label, kws listen and the page in demo/ take. A model of the same name is replaced.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from kws.infra.files import CourseError, file_digest, read_csv, read_json, write_atomically, write_json
from kws.pretrained import SHIPPED, open_model

SOURCES = {  # where the recordings of a corpus come from; its own name, where nothing else is known
    "speech_commands_16k": "Speech Commands v0.01 and v0.02 (Pete Warden, Google), CC BY 4.0, with the noise recordings "
    "of the same corpus",
}
SOURCES["pages"] = SOURCES["speech_commands_16k"]  # the same recordings
SOURCES["speech_commands_16k and reading"] = (
    SOURCES["speech_commands_16k"]
    + "; 2,000 of the clips are seconds of the lessons' texts, without the commands, read out by "
    "espeak-ng, which counts as one speaker"
)
CARD = """# {name}

A network that hears {words} in a second of sound, 16 kHz, mono. It also says *silence*, and *unknown* for other speech.

| | |
|---|---|
| network | {network}, {parameters:,} parameters, {macs:,} multiplications a look, front end (log-mel) inside |
| file | model.tflite, {bytes:,} bytes, {form} |
| trained on | {data} |
| training | {epochs} epochs, seed {seed}, {date}{start} |
| accuracy on voices it never heard{test_voices} | {test} |
| accuracy on the validation speakers{val_voices} | {val} |
| silence of noises it never heard | {silence} |
{streams}

## Licence and credit
The model is under the licence of this project (Apache-2.0). Its training data is Speech Commands by Pete Warden (Google),
CC BY 4.0: P. Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", arXiv:1804.03209.

## What it cannot do
- It knows single words, said alone within a second. It understands no sentences, and does not know who speaks.
- Its speakers were volunteers with microphones of their own, in English. Children, other accents and far microphones are few
  among them; the table's figures are of the corpus, not of your room.
- Other words, and other sounds, are sometimes taken for a command: the false alarms of the table.
- It must not decide anything that could harm somebody: no emergency stop, no alarm.
"""


def interval(score):
    """An accuracy with its interval, number of clips and chance, in words."""
    low, high = (f"{100 * score[key]:.1f}" for key in ("low", "high"))
    chance = f"; always the most frequent label: {100 * score['chance']:.1f} %" if score["chance"] < 1 else ""
    return (
        f"{100 * score['accuracy']:.1f} % of {score['n']:.0f} clips (95 % interval {low} to {high}{chance})"
    )


def stream_row(row):
    """A row of the card: what a model finds in a long recording of words, or of a machine's reading."""
    alarms = f"{row['false alarms']:.0f} false alarms in {row['minutes']:.0f} minutes (threshold {row['threshold']:g})"
    if row["clips"] == "read out":
        return f"| among a machine's reading, in noise of volume {row['noise']:g} | {alarms} |"
    found = f"{row['correct']:.0f} of {row['true']:.0f} commands right, {row['wrong']:.0f} wrong"
    return f"| among words of the test speakers, in noise of volume {row['noise']:g} | {found}, {alarms} |"


def voices(work, splits):
    """How many speakers some splits of the manifest in a work folder have."""
    clips = read_csv(work / "manifest.csv", ("split", "speaker"), text=True)
    return clips[(clips.speaker != "") & clips.split.isin(splits)].speaker.nunique()


def ship(work, model="model_int8.tflite", name=""):
    """Copy a model of a work folder into the package, with its card; returns its folder."""
    work = Path(work)
    results = read_json(work / "results.json")
    if not results.get("deployed", {}).get(model):
        raise CourseError(f"{work}: results.json has no scores of {model}. Run notebooks 4 and 5 on it first")
    labels = open_model(work / model).labels  # it runs, and its labels fit
    training, scores = results["training"], results["scores"]
    name, source = name or training["model"], SOURCES.get(results["corpus"], results["corpus"])
    folder = SHIPPED / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work / model, folder / "model.tflite")
    shutil.copyfile(work / "labels.txt", folder / "labels.txt")
    test = scores["test, spoken"] | {
        key: results["deployed"][model][key] for key in ("accuracy", "low", "high")
    }
    heard = [row for row in results.get("streaming", []) if row["clips"] != "val"]
    card = {
        "name": name,
        "file": model,
        "labels": labels,
        "sha256": file_digest(work / model),
        "bytes": (work / model).stat().st_size,
        "parameters": training["parameters"],
        "multiplications": training["MACs"],
        "corpus": results["corpus"],
        "data": f"{training['train_clips']:,} training clips of {voices(work, training['splits']):,} speakers from {source}",
        "held-out voices": {key: test[key] for key in ("accuracy", "low", "high", "n", "chance")},
        "date": training["date"],
    }
    write_json(folder / "card.json", card)
    text = CARD.format(
        name=name,
        words=", ".join(labels[2:]),
        network=training["model"],
        parameters=training["parameters"],
        macs=training["MACs"],
        bytes=card["bytes"],
        form="weights and activations of the network in 8 bits, front end in floating point"
        if "int8" in model
        else "floating point",
        data=card["data"],
        epochs=training["epochs"],
        seed=training["seed"],
        date=training["date"],
        start=f", begun with the weights of {training['start']}" if training.get("start") else "",
        test_voices=f" ({voices(work, ['test'])} speakers)",
        val_voices=f" ({voices(work, ['val'])} speakers)",
        test=interval(test),
        val=interval(scores["val, spoken"]) + ", before the weights became 8 bits",
        silence=interval(scores["test, silence"]) + ", before the weights became 8 bits"
        if scores.get("test, silence")
        else "not measured",
        streams="\n".join(map(stream_row, heard)) or "| in long recordings | not measured |",
    )
    write_atomically(folder / "README.md", text.encode())
    write_atomically(SHIPPED / "default.txt", f"{name}\n".encode())
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="such as data/speech_commands_16k, after notebooks 4 and 5")
    parser.add_argument("--model", default="model_int8.tflite")
    parser.add_argument("--name", default="", help="default: the network's name")
    try:
        place = ship(**vars(parser.parse_args()))
    except CourseError as error:
        sys.exit(str(error))
    print(f"{place}: {json.loads((place / 'card.json').read_text())['bytes']:,} bytes, now the default")
