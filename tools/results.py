"""Write RESULTS.md, and the figures of README.md between its markers: python tools/results.py

The numbers come from benchmarks/results/<corpus>/: results.json, peers.csv if there is one, experiments.csv, features.csv,
store.csv, submission.csv, seconds.json and published.csv.
"""

import json
import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
CORPUS = "speech_commands_16k"


def interval(accuracy, low, high):
    return f"{100 * accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def table(header, rows):
    return "\n".join(
        "| " + " | ".join(map(str, row)) + " |" for row in [header, ["---"] * len(header), *rows]
    )


def tf14_ms(results, graph):
    """Milliseconds of a graph's file in TensorFlow 1.4; notebook 5 calls its own one "ours"."""
    return results["tf14"]["ours" if graph == "frozen.pb" else graph.removesuffix(".pb")]["ms"]


def results_text(folder):
    """Markdown of the results in a folder."""
    results = json.loads((folder / "results.json").read_text())
    where, best, people = results["deployed_circumstances"], results.get("best"), results["speakers"]
    models = [results, best] if best else [results]
    parts = {
        "testing_list.txt, spoken clips": "test, spoken",
        "validation_list.txt, spoken clips": "val, spoken",
        "silence of the test stretches": "test, silence",
    }
    accuracy = []
    for name, key in parts.items():
        each = [model["scores"][key] for model in models]
        intervals = [interval(s["accuracy"], s["low"], s["high"]) for s in each]
        chance = f"{100 * each[0]['chance']:.1f}" if each[0]["chance"] < 1 else "–"
        accuracy.append([name, f"{each[0]['n']:.0f}", *intervals, chance])
    files = [
        [f"`{name}`", f"{d['bytes']:,}", f"{d['ms']:.2f}", f"{d['p95']:.2f}", f"{100 * d['accuracy']:.1f}"]
        for name, d in results["deployed"].items()
    ]
    training = results["training"]
    described = (
        f"`{training['model']}`, {training['parameters']:,} parameters, {training['MACs'] / 1e6:.1f} M multiplications, "
        f"trained for {training['epochs']} epochs in {training['seconds'] / 60:.0f} minutes on {training['train_clips']:,} "
        "spoken clips of a second, and on silence cut from noise (a selection of Speech Commands v0.01 and v0.02; the speakers "
        "of its lists are in no training clip). "
    )
    columns = [f"`{training['model']}`"]
    if best:
        t = best["training"]
        described += (
            f"The best model is a `{t['model']}`, {t['parameters']:,} parameters, {t['MACs'] / 1e6:.1f} M multiplications, "
            f"taught by {len(best['teachers'])} models, also on {best['clips without labels']:,} clips without labels: "
            f"{best['seconds with teachers'] / 60:.0f} minutes, its teachers included. "
        )
        columns.append("best")
    text = [
        described + f"Seed {training['seed']}, {training['hardware']}, TensorFlow {training['tensorflow']}, "
        f"{training['date']}. "
        f"Over the {people['n']} people of the first row its 95 % interval is {100 * people['low']:.1f} to "
        f"{100 * people['high']:.1f}: clips of a person are not independent, so the intervals of the tables are too narrow. "
        "Models and epochs were chosen on validation_list.txt, so that its row is a little too good; testing_list.txt, which is "
        "harder for others' graphs, too (below), was only reported. Chance is to always say the most frequent label.",
        table(
            ["clips", "n", *(f"{c}: accuracy in % (95 % interval)" for c in columns), "chance in %"], accuracy
        ),
    ]
    never = [
        results["scores"][f"{s}, unseen words"]
        for s in ("val", "test")
        if f"{s}, unseen words" in results["scores"]
    ]
    if never:
        right, n = sum(s["accuracy"] * s["n"] for s in never), sum(s["n"] for s in never)
        text.append(
            f"Trained once more with the words of `HELD_OUT` kept out, `{training['model']}` says `unknown` to "
            f"{100 * right / n:.0f} % of {n:.0f} clips of these words."
        )
    text += [
        f"The {'best' if best else 'same'} model in its files, one thread of {where['hardware']}; accuracy on the "
        f"{where['n']} spoken clips of testing_list.txt:",
        table(["file", "bytes", "ms per clip, median", "95th percentile", "accuracy in %"], files),
    ]
    if small := results.get("small"):
        val, test = (
            interval(*(small[split][key] for key in ("accuracy", "low", "high"))) for split in ("val", "test")
        )
        text.append(
            f"In a hundred kilobytes: a `{small['model']}` in int8, {small['parameters']:,} parameters, taught by the wide "
            f"network, takes {small['bytes']:,} bytes with its front end (section 8 of "
            f"[this extra](extras/tricks_and_labels.ipynb) builds and trains it; {small['date']}). "
            f"Of the {small['val']['n']:,} spoken clips of "
            f"validation_list.txt it gets {val} % right, of the {small['test']['n']} of testing_list.txt {test} %."
        )
    if (folder / "peers.csv").exists():
        peers = pd.read_csv(folder / "peers.csv")
        if peers.bytes[0] != results["deployed"]["frozen.pb"]["bytes"]:
            raise SystemExit("peers.csv is of another frozen.pb: run notebook 5 with PEERS again")
        rows = [
            [f"`{p.graph}`", f"{p.bytes:,}", interval(p["test accuracy"], p["test low"], p["test high"]),
             interval(p["val accuracy"], p["val low"], p["val high"]),
             f"{tf14_ms(results, p.graph):.2f}"]
            for _, p in peers.iterrows()
        ]  # fmt: skip
        n = [int(peers[f"{split} n"].iloc[0]) for split in ("val", "test")]
        text += [
            "Beside the pretrained DS-CNN graphs of Arm's [ML-KWS-for-MCU](https://github.com/ARM-software/ML-KWS-for-MCU), "
            "which learned from the whole of Speech Commands v0.01, on the same clips "
            f"({peers.hardware.iloc[0]}, {peers.date.iloc[0]}; times by notebook 5, {where['date']}):",
            table(
                [
                    "graph",
                    "bytes",
                    f"testing_list.txt, n = {n[1]}",
                    f"validation_list.txt, n = {n[0]}",
                    "ms per clip, TensorFlow 1.4",
                ],
                rows,
            ),
        ]
    if results.get("pi_estimates"):
        text += [
            "On a Raspberry Pi 3 (an estimate, not a measurement: `frozen.pb` and a graph whose time on the contest's Pi 3 is "
            "known, both timed in the genuine TensorFlow 1.4 on the machine above, one thread, and scaled):",
            table(
                [
                    "by the known time of",
                    "known, ms",
                    "ours, estimated ms (our 5th percentile by its 95th, and the other way round)",
                ],
                [
                    [name, e["on_pi"], f"{e['ours_on_pi']:.1f} ({e['low']:.1f} to {e['high']:.1f})"]
                    for name, e in results["pi_estimates"].items()
                ],
            ),
        ]
    if heard := results.get("streaming"):
        rows = [
            [
                {"val": "validation", "test": "test"}[s["clips"]],
                s["noise"],
                f"{s['minutes']:.0f}",
                s["threshold"],
                f"{s['true']:.0f}",
                f"{100 * s['correct share']:.1f}",
                f"{100 * s['wrong'] / s['true']:.1f}",
                f"{s['false alarms per hour']:.1f} ({s['low']:.1f} to {s['high']:.1f})",
            ]
            for s in heard
        ]
        text += [
            "Listening to long recordings: one clip every four seconds, at a random place in it, over noise from other parts of "
            "the recordings than training has heard, and, in the test, also of a tap that it has not heard at all. The threshold "
            "was chosen on the validation clips, for at most ten false alarms per hour; other words than the "
            "commands are about a quarter of the clips:",
            table(
                ["clips", "volume of the noise", "minutes", "threshold", "commands", "found and right in %",
                 "another command in %", "false alarms per hour (95 % interval)"],
                rows,
            ),
        ]  # fmt: skip
    return "\n\n".join(text)


def field_text(folder):
    """Markdown of the ten best models of notebook 3 on the sample set."""
    rows = pd.read_csv(folder / "experiments.csv")
    means = rows.groupby("model").mean(numeric_only=True).sort_values("accuracy", ascending=False)
    means["seeds"], r = rows.groupby("model").size(), rows.iloc[0]
    columns = {
        "seeds": "{:.0f}",
        "accuracy": "{:.1%}",
        "unseen_accuracy": "{:.0%}",
        "parameters": "{:,.0f}",
        "MACs": "{:,.0f}",
        "ms": "{:.2f}",
        "seconds": "{:.0f}",
    }
    lines = [
        [f"`{name}`", *(form.format(m[column]) for column, form in columns.items())]
        for name, m in means.head(10).iterrows()
    ]
    header = (
        "model",
        "seeds",
        "accuracy",
        "new words called unknown",
        "parameters",
        "MACs",
        "ms per clip",
        "s to train",
    )
    text = (
        f"The ten best of {len(means)} models of the field, each trained for {r.epochs} epochs on the same sample of real "
        f"speech, on {r.n:.0f} validation clips (intervals are about 5 points wide) and on {r.unseen_n:.0f} clips of words "
        f"that no training clip says ({r.hardware}, {r.date}; all in [notebook 3](3_sample_experiments.ipynb)):"
    )
    return f"{text}\n\n{table(header, lines)}"


def spotter_text(folder):
    """Markdown of what a training for long recordings brings, and of an hour without commands."""
    rows = pd.read_csv(folder / "stream.csv").fillna({"epochs": 0, "rate": 0, "seed": 0})
    rows = rows.set_index(["model", "epochs", "rate", "seed", "noise", "clips"])

    def cell(row):
        return f"{100 * row.share:.1f} at {row['alarms per hour']:.1f} ({row.low:.1f} to {row.high:.1f})"

    lines = []
    for key in dict.fromkeys(key[:-1] for key in rows.index):
        val, test, read = (rows.loc[(*key, clips)] for clips in ("val", "test", "read out"))
        model, epochs, rate, seed, volume = key
        more = f"{epochs:.0f} at {rate:g}, seed {seed:.0f}" if epochs else "–"
        clips = f"{100 * val['clips right']:.1f} / {100 * test['clips right']:.1f}"
        silence = f"{100 * test['silence right']:.1f}"
        alarms = f"{read['alarms per hour']:.0f}"
        lines.append([model, more, volume, val.threshold, clips, silence, cell(val), cell(test), alarms])
    header = ["model", "more epochs", "noise", "threshold", "single clips right, validation / test, %",
              "silence of test stretches right, %", "validation: commands right in % at false alarms per hour", "test",
              "alarms in an hour of reading"]  # fmt: skip
    test = rows.xs("test", level="clips").iloc[0]
    text = (
        "The int8 model of the pages as it is, and after some more epochs in which words lie anywhere in the second and noise is "
        f"louder (the same {test.commands} test commands and {test['silence n']:.0f} silences, thresholds chosen on validation; "
        "single clips and silences by the float model), by [benchmarks/stream.py](benchmarks/stream.py). The last column is "
        "another question: in an hour a machine reads out the course's texts without "
        "the commands, so each alarm is false. Words of running speech hold pieces that sound like commands, and a network that "
        "has heard single words only takes them for such. Where the model's name ends with reading, half an hour of other "
        "reading is among the unknown clips of the training; *made* is the share of computed noise of many kinds in its noise. "
        "With it more silences are called silence, and about as many words are found. The model of the last two rows comes with "
        "the package, and listens in the demo: on validation it finds as many words as the others, and it was chosen by its "
        "alarms, which are therefore a little too few. It calls fewer silences silence than the pages' model. The noise also "
        "lies under the reading:"
    )
    return f"{text}\n\n{table(header, lines)}"


def parts_text(folder):
    """Markdown of where LiteRT spends its time."""
    rows = pd.read_csv(folder / "litert_parts.csv").set_index(["model", "part"])
    shares = ", ".join(
        f"of the {rows.ms[model, 'whole']:.2f} ms of `{model}` the front end alone takes {rows.ms[model, 'front end']:.2f} and "
        f"the network alone {rows.ms[model, 'network']:.2f}"
        for model in rows.index.unique("model")
    )
    return f"Where LiteRT spends its time (float, one thread, {rows.hardware.iloc[0]}, {rows.date.iloc[0]}): {shares}."


def arabic_text(folder):
    """Markdown of the trainings on the Arabic Speech Commands."""
    lines = []
    for _, r in pd.read_csv(folder / "results.csv").sort_values("val").iterrows():
        taught = len(r.teachers.split()) if r.teachers != "-" else "–"
        begin = "the standard row of 60" if "-from-" in r.start else "a model of English"
        begin = "at random" if r.start == "-" else begin
        lines.append(
            [f"`{r.model}`", r.epochs, r.seed, r.augmentations, begin, taught, interval(r.val, r.val_low, r.val_high),
             interval(r.test, r.test_low, r.test_high), f"{100 * r.test_int8:.1f}", f"{r.bytes:,}"]
        )  # fmt: skip
    header = ["model", "epochs", "seed", "augmentation", "began with", "teachers", "validation, %", "test, %", "test in int8, %",
              "bytes"]  # fmt: skip
    text = (
        f"Forty words, 12,000 recordings of thirty people, the authors' own split ({r.val_n:,} validation and {r.test_n:,} test "
        f"clips of six people each; {r.hardware}, {r.date}), by [benchmarks/arabic.py](benchmarks/arabic.py). The last row is "
        "the best on validation. [This page](extras/another_language.ipynb) tells what the words in the columns mean and what "
        "others have published:"
    )
    return f"{text}\n\n{table(header, lines)}"


def teachers_text(folder):
    """Markdown of what longer trainings, ensembles and teachers bring to the pages' own model."""
    rows = pd.read_csv(folder / "teachers.csv")
    lines = []
    for _, r in rows.sort_values(["val", "model"]).iterrows():
        line = [r.model, "–" if pd.isna(r.epochs) else f"{r.epochs:.0f}"]
        for split in ("val", "test"):
            line.append(interval(*(r[f"{split}{name}"] for name in ("", " low", " high"))))
            line.append(f"{r[f'{split} lost']} / {r[f'{split} gained']}, {r[f'{split} p']:.2g}")
        lines.append(line)
    header = ["model", "more epochs", "validation, %", "lost / gained, p", "test, %", "lost / gained, p"]
    text = (
        f"The pages' `{rows.beside.iloc[0]}` beside other long trainings, means of the answers of several models, and itself "
        "after some more epochs in which the mean answer of teachers is 70 % of the target, by "
        "[benchmarks/teachers.py](benchmarks/teachers.py). Numbers behind a name are epochs and seed (120 and 0 where there are "
        f"none). Lost and gained are counted against it, on the same {rows['val n'][0]:,} validation and {rows['test n'][0]:,} "
        f"test clips, p is McNemar's ({rows.hardware.iloc[-1]}, {rows.date.iloc[-1]}):"
    )
    return f"{text}\n\n{table(header, lines)}"


def published_text(folder):
    """Markdown of what others have published."""
    rows = pd.read_csv(folder / "published.csv")

    def or_dash(value, form):
        return "–" if pd.isna(value) else form.format(value)

    lines = [
        [f"[{r.what}]({r.source})", r.clips, f"{r.accuracy:.1f}", or_dash(r.parameters, "{:,.0f}"),
         or_dash(r.multiplications, "{:.1f} M")]
        for _, r in rows.iterrows()
    ]  # fmt: skip
    text = (
        "What others have published, each on clips of its own: more clips to learn from (the whole of Speech Commands has "
        "several times ours), and a test whose unknown words have been heard in training, or, on Kaggle, have not:"
    )
    return f"{text}\n\n{table(['what', 'clips', 'accuracy in %', 'parameters', 'multiplications'], lines)}"


def speed_text(folder):
    """Markdown of what notebook 2's store was measured to do."""
    features = pd.read_csv(folder / "synthetic/features.csv")
    store = pd.read_csv(folder / "synthetic-full/store.csv")
    made = store[store.what == "wav files to log-mel store"].iloc[-1]
    older, same, _ = features["write_store is faster by"]
    return (
        f"From wav files to a log-mel store: {older:.0f} times as fast as librosa's defaults clip by clip, {same:.0f} times "
        f"as fast as librosa with the same numbers (ratios of one run, {features.n[0]:,} synthetic clips). {made.clips:,} "
        f"clips take {made.seconds:.0f} s and {made['peak MB']:.0f} MB of memory ({made.hardware}, {made.date})."
    )


def submission_text(folder):
    """Markdown of what predicting as many clips as the contest's takes."""
    runs = pd.read_csv(folder / "submission.csv")
    most = runs.loc[runs.clips.idxmax()]
    ratio = runs.groupby("how")["times as fast as it"].first()
    return (
        f"From {most.clips:,} wav files, as many as the contest's, to a checked submission with `{Path(most.model).stem}`: "
        f"{most.seconds:.0f} s, {most['peak MB']:,.0f} MB of memory; {ratio['predict']:.0f} times as fast as a loop of "
        f"Keras's `predict` clip by clip, {ratio['predict_on_batch']:.1f} times as fast as one of `predict_on_batch` "
        f"({most.hardware}, {most.date})."
    )


def reading_minutes(path):
    """Minutes to read a notebook: 200 words of text per minute, four seconds for a line of code."""
    texts = {"markdown": "", "code": ""}
    for cell in json.loads(path.read_text())["cells"]:
        texts[cell["cell_type"]] += "".join(cell["source"]) + "\n"
    lines = [line for line in texts["code"].splitlines() if line.strip()]
    return round(len(texts["markdown"].split()) / 200 + len(lines) / 15)


def times_text(folder):
    """Markdown of the running times of some runs and of the time to read."""
    runs = {
        "`sample`, synthetic": "synthetic",
        "`full`, real speech": CORPUS,
    }
    files = {title: folder / name / "seconds.json" for title, name in runs.items()}
    seconds = {title: json.loads(file.read_text()) for title, file in files.items() if file.exists()}
    names = sorted(seconds["`full`, real speech"])
    reading = {name: reading_minutes(ROOT / f"{name}.ipynb") for name in names}
    rows = [
        [f"[{name}]({name}.ipynb)", reading[name], *(column.get(name, "–") for column in seconds.values())]
        for name in names
    ]
    totals = (sum(column.values()) if set(names) <= set(column) else "–" for column in seconds.values())
    rows.append(["all", sum(reading.values()), *totals])
    title = (
        "Minutes to read (200 words of text per minute, four seconds for a line of code), and seconds to run on 2 CPU cores, "
        "`EXPERIMENTS` as usual. `sample` is a first run. In `full` what trains for more than a minute was there "
        "already (the first section and the table of the field say what that takes), and other trainings ran beside notebooks "
        "0, 1, 3 and 4:"
    )
    header = ["notebook", "minutes to read", *(f"{run}, s" for run in seconds)]
    return f"{title}\n\n{table(header, rows)}"


def front_text(folder):
    """Markdown of the README's first figures: what the model does, and how long the first run takes."""
    results, seconds = (
        json.loads((folder / name).read_text())
        for name in (f"{CORPUS}/results.json", "synthetic/seconds.json")
    )
    test, int8 = results["scores"]["test, spoken"], results["deployed"]["model_int8.tflite"]
    people, reading = results["speakers"], sum(reading_minutes(ROOT / f"{name}.ipynb") for name in seconds)
    return (
        f"The model behind these pages, {int8['bytes'] / 1e3:,.0f} kB in eight bits, labels "
        f"**{100 * int8['accuracy']:.1f} %** of {test['n']:.0f} clips right, spoken by {people['n']} people it has never heard "
        f"(95 % interval over people: {100 * people['low']:.0f} to {100 * people['high']:.0f} %; always the most frequent "
        f"label: {100 * test['chance']:.0f} %), in {int8['ms']:.1f} ms on one core. Training it took "
        f"{results['training']['seconds'] / 60:.0f} minutes; your first run, on a machine's speech, takes "
        f"{sum(seconds.values()) / 60:.0f} on two cores, reading it all about {reading / 60:.0f} hours."
    )


def board_text(folder):
    """Markdown of the README's one table: our models, and what they are compared with."""
    peers, results = (
        pd.read_csv(folder / f"{CORPUS}/peers.csv"),
        json.loads((folder / CORPUS / "results.json").read_text()),
    )
    rows = [
        ["ours, `frozen.pb`" if p.graph == "frozen.pb" else f"Arm's `{p.graph}`", f"{p['test n']} of testing_list.txt",
         interval(p["test accuracy"], p["test low"], p["test high"]), f"{p.bytes / 1e3:,.0f}",
         f"{tf14_ms(results, p.graph):.1f}"]
        for _, p in peers.iterrows()
    ]  # fmt: skip
    prize = pd.read_csv(folder / "published.csv").iloc[1]
    rows.append([f"[{prize.what}]({prize.source})", prize.clips, f"{prize.accuracy:.1f}", "–", "–"])
    arabic = pd.read_csv(folder / "arabic/results.csv")
    ours = arabic.sort_values("val").iloc[-1]  # as in its own table
    score = interval(ours.test, ours.test_low, ours.test_high)
    rows.append(
        [
            "ours, forty words of Arabic",
            f"{ours.test_n:,} of its test",
            score,
            f"{ours.bytes / 1e3:,.0f}",
            "–",
        ]
    )
    for _, other in pd.read_csv(folder / "arabic/published.csv").iterrows():
        rows.append([f"[{other.what}]({other.source})", "the same corpus", f"{other.accuracy}", "–", "–"])
    header = ["model", "clips", "accuracy in % (95 % interval)", "kB", "ms in TensorFlow 1.4"]
    text = (
        "Arm's DS-CNN are published reference networks (notebook 3 builds one). The first four labelled the same spoken clips; "
        "the intervals take clips for independent, notebook 4 says why those over people are wider. Arm's graphs learned from "
        "the whole of Speech Commands v0.01, ours from a part of v0.01 and v0.02: a yardstick, not a race. Times are of one "
        "thread ({hardware}, {date}). Our Arabic model began with the English one ([how](extras/another_language.ipynb)).".format(
            **results["deployed_circumstances"]
        )
    )
    return f"{table(header, rows)}\n\n{text}"


def between(page, name, text):
    """A page with a text between the markers of a name."""
    begin, end = f"<!-- {name}: written by tools/results.py -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page)


def with_figures(readme, folder):
    """The text of README.md with its figures in place."""
    return between(between(readme, "front", front_text(folder)), "results", f"\n{board_text(folder)}\n")


def all_results(folder):
    """The text of RESULTS.md."""
    parts = {
        "The model of the pages": results_text(folder / CORPUS),
        "Words in running speech": spotter_text(folder / CORPUS),
        "The models of the field": field_text(folder / CORPUS),
        "Longer, together, taught": teachers_text(folder / CORPUS),
        "Forty words of Arabic": arabic_text(folder / "arabic"),
        "What others have published": published_text(folder),
        "Speed": "\n\n".join(
            [speed_text(folder), submission_text(folder / CORPUS), parts_text(folder / CORPUS)]
        ),
        "How long the notebooks take": times_text(folder),
    }
    text = "".join(f"\n## {title}\n\n{part}\n" for title, part in parts.items())
    return f"# Results\n\nWritten by tools/results.py from the files in [benchmarks/results](benchmarks/results).\n{text}"


if __name__ == "__main__":
    results, readme = ROOT / "benchmarks/results", ROOT / "README.md"
    readme.write_text(with_figures(readme.read_text(), results))
    (ROOT / "RESULTS.md").write_text(all_results(results))
