"""The command kws: what each command says, and what it does, in this process."""

import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
from conftest import ROOT

import kws
from kws import cli, inference, microphone, pretrained
from kws.audio import CLIP_SAMPLES, read_clip
from kws.inference import load_predictor
from kws.infra import corpora
from kws.split import LABELS, scan_corpus
from kws.zoo import ZOO

COMMANDS = (
    *(
        (name,)
        for name in "corpus features train freeze predict label listen record check board bench".split()
    ),
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
        ("train --random-data --learning-rate 0", "learning-rate"),
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
        ("label gone.wav", "gone.wav: there is no such file"),
        ("label text.csv", "text.csv: cannot be read"),
        ("label text.csv --model gone.tflite", "gone.tflite: there is no such file"),
        ("label text.csv --model text.csv", "text.csv: a .tflite file is wanted"),
        ("label text.csv --model text.tflite", "labels.txt: there is no such file"),
        ("listen --file gone.wav", "gone.wav: there is no such file"),
        ("listen --threshold 2", "threshold"),
        ("record yes yes --speaker anna", "words yes, yes: name one or more, each once"),
        ("record a/b --speaker anna", "'a/b': no name for a folder"),
        ("record yes", "speaker"),
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


def test_sounds_are_fetched_without_a_manifest(monkeypatch, capsys):
    monkeypatch.setattr(corpora, "fetch_esc10", lambda: Path("data/raw/esc10"))
    assert said(capsys, "corpus", "esc10") == f"{Path('data/raw/esc10')}\n"


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


@pytest.fixture
def words(corpus, tmp_path):
    """A recording in stereo at 44.1 kHz, as flac: two words of machine speech with pauses."""
    clips = [read_clip(sorted((corpus / f"train/audio/{word}").glob("*.wav"))[0]) for word in ("yes", "stop")]
    pause = np.zeros(2 * CLIP_SAMPLES, "float32")
    sound = soxr.resample(np.concatenate([pause, clips[0], pause, clips[1], pause]), CLIP_SAMPLES, 44_100)
    path = tmp_path / "words.flac"
    soundfile.write(path, np.stack([sound, sound], 1), 44_100)
    return path


def test_label_reads_any_sound(corpus, words, capsys):
    clip = sorted((corpus / "train/audio/yes").glob("*.wav"))[0]
    one, long = said(capsys, "label", clip, words).splitlines()
    assert one.startswith(f"{clip}: ") and one.count(", ") == 2
    assert "(the loudest second, from " in long
    assert "text.csv: cannot be read" in refused(capsys, "label", __file__).replace(__file__, "text.csv")


def test_label_needs_no_tensorflow(words):
    code = f"import sys; from kws import cli; cli.main(['label', {str(words)!r}]); assert 'tensorflow' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr and done.stdout.startswith(str(words)), done.stderr


class Told:
    """A stand-in for a model: it is told what it says, by the loudness of the sound."""

    def __call__(self, pcm):
        loud = float(np.sqrt(np.mean(pcm**2)) > 0.01)
        return np.array([1 - loud, 0, loud, *[0] * 9], "float32")


def test_listen_to_a_recording_and_to_a_microphone(words, monkeypatch, capsys):
    opened = pretrained.load_pretrained()._replace(predict=Told())
    monkeypatch.setattr(pretrained, "load_pretrained", lambda: opened)
    heard = said(capsys, "listen", "--file", words)
    assert [line.split()[2] for line in heard.splitlines()] == ["yes", "yes"]
    seconds = [float(line.split()[0]) for line in heard.splitlines()]
    assert 2 < seconds[0] < 3.2 and 5 < seconds[1] < 6.2
    chunks = microphone.in_chunks(pretrained.read_sound(words))
    monkeypatch.setattr(microphone, "microphone", lambda device: chunks)
    assert said(capsys, "listen") == heard
    monkeypatch.setattr(microphone, "microphones", lambda: ["one", "two"])
    assert said(capsys, "listen", "--devices") == "one\ntwo\n"
    monkeypatch.setattr(microphone, "microphones", lambda: [])
    assert "no microphone was found" in refused(capsys, "listen", "--devices")


def test_nobody_reads_on(words):
    listening = [sys.executable, "-m", "kws.cli", "listen", "--file", str(words), "--threshold", "0"]
    with subprocess.Popen(
        listening, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 1 and "Traceback" not in process.stderr.read()


def test_listen_ends_with_ctrl_c(monkeypatch, capsys):
    def stopped(device):
        yield np.zeros(1_600, "float32")
        raise KeyboardInterrupt

    monkeypatch.setattr(microphone, "microphone", stopped)
    assert said(capsys, "listen") == ""


def test_record_makes_a_corpus(corpus, tmp_path, monkeypatch, capsys):
    """A speaker made of machine speech, who says what is asked for, into a corpus that the course takes."""
    asked, clips = [], {}
    for word in ("yes", "no"):
        path = sorted((corpus / f"train/audio/{word}").glob("*.wav"))[0]
        clips[word] = np.pad(read_clip(path), (8_000, 8_000))

    def hear(chunks, seconds):
        sound = (
            clips[asked[-1]] if asked else np.random.default_rng(0).normal(0, 1e-3, round(16_000 * seconds))
        )
        return sound[: round(16_000 * seconds)].astype("float32")

    def say(text=""):
        if "say:" in text:
            asked.append(text.split("say:")[1].strip())

    record_words = microphone.record_words
    monkeypatch.setattr(microphone, "microphone", lambda device: iter([np.zeros(1_600)] * 9))
    monkeypatch.setattr(microphone, "skip_old", lambda chunks: None)
    monkeypatch.setattr(microphone, "take", hear)
    quick = {"say": say, "wait": lambda seconds: None}
    monkeypatch.setattr(microphone, "record_words", lambda *args: record_words(*args, **quick))
    for speaker in ("Anna", "Ben", "anna"):
        asked.clear()
        out = said(
            capsys, "record", "yes", "no", "--speaker", speaker, "--into", tmp_path / "mine", "--takes", 2
        )
        assert out.startswith(f"{tmp_path / 'mine'}: 4 clips more.")
        assert asked == ["yes", "no"] * 2
    names = sorted(path.name for path in (tmp_path / "mine/yes").iterdir())
    assert names == [f"anna_nohash_{n}.wav" for n in range(4)] + [f"ben_nohash_{n}.wav" for n in range(2)]
    assert sorted(path.name for path in (tmp_path / "mine/_background_noise_").iterdir()) == [
        "anna.wav",
        "ben.wav",
    ]
    clips, skipped = scan_corpus(tmp_path / "mine", ("yes", "no"))
    assert len(clips) == 12 and not len(skipped) and set(clips.speaker) == {"anna", "ben"}
    assert (clips.samples == CLIP_SAMPLES).all()
