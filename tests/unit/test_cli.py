"""The command kws: what each command says, and what it does, in this process."""

import shutil

import keras
import numpy as np
import pandas as pd
import pytest

import kws
from kws import cli, inference
from kws.audio import CLIP_SAMPLES
from kws.inference import load_predictor
from kws.split import LABELS
from kws.zoo import ZOO

COMMANDS = (
    *((name,) for name in "corpus features train freeze predict check board bench".split()),
    *(("tag", name) for name in "train evaluate write".split()),
)


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """bench would leave one thread to all tests after it."""
    monkeypatch.setattr(inference, "one_thread", lambda: None)


def said(capsys, *arguments):
    """Standard output of a command that ends well."""
    cli.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """The one line that a command says before it ends with status 2."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    out, error = capsys.readouterr()
    assert stopped.value.code == 2 and "Traceback" not in error and error.count("\n") == 1, error
    assert not out.strip()
    return error


def test_these_are_all_commands():
    there = {(name,) for name in cli.app if name[0] != "-"} | {
        ("tag", name) for name in cli.tag if name[0] != "-"
    }
    assert there == {*COMMANDS, ("tag",), ("leaderboard",)}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command, capsys):
    text = said(capsys, *command, "--help")
    (example,) = [line for line in text.splitlines() if "Example:" in line]
    assert example.strip().startswith(f"Example: kws {' '.join(command)} ")
    assert "Usage: kws" in text and len(text.splitlines()) > 5


def test_help_of_all(capsys):
    text = said(capsys, "--help")
    assert all(command[0] in text for command in COMMANDS) and said(capsys) == text
    assert all(command[1] in said(capsys, "tag", "--help") for command in COMMANDS if len(command) > 1)
    assert said(capsys, "--version").strip() == kws.__version__


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("nonsense", "nonsense"),
        ("corpus nowhere", "nowhere: there is no such folder. Use CORPUS=synthetic"),
        ("corpus synthetic --profile huge", "huge"),
        ("corpus synthetic --seed -1", "seed"),
        ("features huge", "huge: there are pcm, fft"),
        ("train --random-data --model huge", f"model=huge: there are {', '.join(ZOO)}"),
        ("train --random-data --epochs 0", "epochs"),
        ("train --random-data --epochs many", "epochs"),
        ("train --random-data --seed -1", "seed"),
        ("train --random-data --patience 0", "patience"),
        ("train --random-data --engine torch", "torch"),
        ("train --random-data --nonsense 1", "nonsense"),
        ("train --random-data --words yes yes", "commands 'yes yes': name one or more, each once"),
        ("train --corpus nowhere --model linear", "nowhere: there is no such folder"),
        ("train --task dreams", "--task dreams: there are words and tagging"),
        ("freeze gone.keras", "gone.keras: no model to load"),
        ("predict gone.keras CORPUS x.csv", "gone.keras: there is no such model"),
        ("predict text.csv CORPUS x.csv", "text.csv: a model is a .keras, .pb or .tflite file"),
        ("check gone.csv CORPUS", "gone.csv: there is no such file"),
        ("check text.csv CORPUS", "text.csv, line 1: must be the header fname,label"),
        ("check text.csv nowhere", "nowhere/test/audio: no clips to predict"),
        ("board gone.csv text.csv", "gone.csv: there is no such file"),
        ("board text.csv text.csv", "text.csv: has no column fname, label, Usage"),
        ("board text.csv", "CSVS"),
        ("bench gone.keras", "gone.keras: there is no such model"),
        ("bench gone.tflite", "gone.tflite: there is no such model"),
        ("bench text.tflite", "text.tflite: not a LiteRT model"),
        ("bench text.tflite --runs 0", "runs"),
        ("tag train --train-csv gone.csv --train-clips CORPUS", "gone.csv: there is no such file"),
        ("tag train --train-csv gone.csv --train-clips CORPUS --epochs 0", "epochs"),
        (
            "tag train --train-csv gone.csv --train-clips CORPUS --features bends=3",
            "bends: none of sample_rate",
        ),
        ("tag train --train-clips CORPUS", "train-csv"),
        ("tag evaluate --run nowhere --csv gone.csv --clips CORPUS", "nowhere: no checkpoints to evaluate"),
        ("tag write gone.keras CORPUS text.csv x.csv", "settings of gone.keras must lie beside it"),
        ("tag nonsense", "nonsense"),
    ],
)
def test_bad_input(arguments, sentence, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("text.csv", "text.tflite"):
        (tmp_path / name).write_text("this is not a table\n")
    arguments = [str(corpus) if word == "CORPUS" else word for word in arguments.split()]
    assert sentence.lower() in refused(capsys, *arguments).lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.csv", "text.tflite"]


def test_random_data_tries_a_training_in_seconds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "--random-data --model dnn --epochs 1 --engine tensorflow --logrun tried --words on off".split()
    assert said(capsys, "train", *options).split() == ["data/random/dnn.keras"]
    assert load_predictor("data/random/dnn.keras")(np.zeros((2, CLIP_SAMPLES), "float32")).shape == (2, 4)
    assert (tmp_path / "data/random/logs/tried").exists()


def test_from_a_corpus_to_a_model(corpus, work, tmp_path, monkeypatch, capsys):
    """On what all tests share, so that only the training takes time."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(work, tmp_path / "data/synthetic-smoke-smoke")
    text = said(capsys, "corpus", corpus, "--profile", "smoke")
    counts = pd.read_csv("data/synthetic-smoke-smoke/manifest.csv").split.value_counts()
    assert text.startswith("data/synthetic-smoke-smoke/manifest.csv: ")
    assert all(f"{count:,} {split}" in text for split, count in counts.items())
    text = said(capsys, "features", "pcm", "log_mel", "--corpus", corpus, "--profile", "smoke")
    assert text.splitlines() == [
        f"data/synthetic-smoke-smoke/{name}.bc: ({counts.sum()}, {shape})"
        for name, shape in {"pcm": "16000", "log_mel": "98, 40"}.items()
    ]
    options = ["--path-to-data", corpus, "--profile", "smoke", "--model", "linear", "--epochs", 1]
    path, *scores = said(capsys, "train", *options).splitlines()
    assert path == "data/synthetic-smoke-smoke/linear.keras" and load_predictor(path)
    assert any(line.startswith("val, all") for line in scores) and "accuracy" in scores[0]
    assert said(capsys, "train", *options, "--no-resume").splitlines() == [path, *scores], "trained once"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder with model.keras, which says something else for each clip, and its labels.txt."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("model")
    pcm = keras.Input((CLIP_SAMPLES,))
    x = keras.layers.Dense(12, activation="softmax")(keras.layers.Rescaling(30)(pcm))
    keras.Model(pcm, x).save(folder / "model.keras")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    return folder


def test_from_a_model_to_a_submission(corpus, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = said(capsys, "freeze", model / "model.keras", "frozen", "--clips", corpus / "test/audio")
    names = ["frozen.pb", "model.tflite", "model_int8.tflite"]
    assert [line.split(":")[0] for line in text.splitlines()] == [f"frozen/{name}" for name in names]
    assert text.splitlines()[0].endswith(f": {(tmp_path / 'frozen/frozen.pb').stat().st_size:,} bytes")
    assert sorted(path.name for path in (tmp_path / "frozen").iterdir()) == sorted([*names, "labels.txt"])
    for form in (model / "model.keras", "frozen/frozen.pb", "frozen/model.tflite"):
        target = tmp_path / "new" / f"{str(form).rsplit('.')[-1]}.csv"
        assert said(capsys, "predict", form, corpus, target) == f"{target}: 75 clips\n"
        assert said(capsys, "check", target, corpus) == f"{target}: right, 75 clips\n"
    one, *others = (pd.read_csv(path) for path in sorted((tmp_path / "new").glob("*.csv")))
    assert one.label.nunique() > 3 and all(one.equals(other) for other in others)
    (tmp_path / "new/all.csv").write_text(
        "fname,label\n" + "".join(f"{name},unknown\n" for name in one.fname)
    )
    csvs = sorted((tmp_path / "new").glob("*.csv"))
    table = said(capsys, "board", corpus / "solution.csv", *csvs)
    assert (
        "private" in table
        and table.index("all ") < table.index("keras ")
        and said(capsys, "leaderboard", corpus / "solution.csv", *csvs) == table
    ), "the best first"
    public = said(capsys, "board", corpus / "solution.csv", *csvs, "--public")
    assert "public" in public and "private" not in public
    for form in (model / "model.keras", "frozen/model_int8.tflite"):
        text = said(capsys, "bench", form, "--runs", 3)
        assert "median" in text and "3 runs, 1 thread(s), peak memory" in text


def test_clips_that_cannot_be_read_are_named(corpus, model, tmp_path, capsys):
    shutil.copy(next((corpus / "test/audio").glob("*.wav")), tmp_path / "a.wav")
    (tmp_path / "b.wav").write_text("bad")
    cli.main(["predict", str(model / "model.keras"), str(tmp_path), str(tmp_path / "x.csv")])
    out, error = capsys.readouterr()
    assert f"{tmp_path / 'b.wav'}: could not be read, labelled silence" in error and "2 clips" in out
    assert pd.read_csv(tmp_path / "x.csv").label[1] == "silence"


def test_labels_and_outputs_must_fit(corpus, model, tmp_path, capsys):
    arguments = "predict", model / "model.keras", corpus, tmp_path / "x.csv"
    wrong = refused(capsys, *arguments, "--labels", "yes", "no")
    assert "has 12 outputs, where there are 2 labels: yes, no" in wrong and not (tmp_path / "x.csv").exists()
    assert "75 clips" in said(capsys, *arguments, "--labels", *map(str.upper, LABELS))
    assert pd.read_csv(tmp_path / "x.csv").label.str.isupper().all()
    assert "line 2:" in refused(capsys, "check", tmp_path / "x.csv", corpus)
    assert "right" in said(capsys, "check", tmp_path / "x.csv", corpus, "--labels", *map(str.upper, LABELS))
    assert f"{model}" in refused(capsys, "freeze", model / "model.keras", tmp_path, "--clips", model)


def test_a_stop_says_how_to_go_on(monkeypatch, capsys):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", stop)
    with pytest.raises(SystemExit, match="Stopped. The same command goes on where it was."):
        cli.main(["--help"])
