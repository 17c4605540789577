"""What other people who do this job have reported: one question answered in two places, the machine around it, the microphone,
messages that guess one reason, names as keys. Each right value is held here; all sound and all models are made here."""

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from kws import cli, inference, pi, split, tagging
from kws.audio import as_text, no_recordings, noise_recordings, read_clip, recordings, same_name, write_wav
from kws.inference import load_predictor, named_clips, predict_clips
from kws.inference import test_clips as clips_to_predict
from kws.infra import runs
from kws.infra.backend import keras
from kws.infra.corpora import get_corpus, make_manifest
from kws.infra.files import CourseError, csv_rows, exclusive_write, read_csv, write_csv, write_json
from kws.infra.manifest import corpus_files, parse_words
from kws.infra.synthetic import load_espeak, make_noises, make_synthetic
from kws.metrics import apply_temperature, label_precisions, reliability, score, wilson
from kws.split import LABELS, noise_stretches, scan_corpus
from kws.submission import check_submission, leaderboard, score_submission, write_submission
from kws.tagging import FrameSettings, class_list, load_tagger, read_settings, read_tags, train_tags

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = np.random.default_rng(0).normal(0, 1, (100, 12)).astype("float32")
DECOMPOSED = unicodedata.normalize("NFD", "stöp")


# sound and models


def tone(i):
    """A beep of a second, another one for each number."""
    beep = 0.3 * np.sin(np.arange(16_000) * (0.1 + i / 300)) * np.hanning(16_000)
    return beep + 0.01 * np.random.default_rng(i).standard_normal(16_000)


def make_corpus(folder, words=("yes", "bed"), speakers=30, noise=20):
    """A folder for each word, a recording by each speaker, and seconds of noise."""
    for speaker in range(speakers):
        for number, word in enumerate(words):
            write_wav(folder / word / f"spk{speaker:03}_0.wav", tone(10 * speaker + number))
    if noise:
        sound = 0.05 * np.random.default_rng(0).standard_normal(16_000 * noise)
        write_wav(folder / "_background_noise_/room.wav", sound)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sixty beeps in two words, and noise (read only)."""
    return make_corpus(tmp_path_factory.mktemp("beeps"))


def make_clips(folder, *names):
    """Wav files of these names, each with a beep of its own."""
    for number, name in enumerate(names):
        write_wav(folder / name, tone(10 * number))
    return folder


def latin(folder, name):
    """A path whose name is Latin-1: no UTF-8. Skips where the file system has no such names."""
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name.encode("latin-1")))
    try:
        path.touch()
    except OSError:
        pytest.skip("no such names on this file system")
    path.unlink()
    return path


def body(pcm):
    """What the small models say of PCM [1, 16,000]."""
    loudness = tf.reduce_mean(tf.abs(tf.reshape(pcm, [1, 100, 160])), -1) * 30
    return tf.nn.softmax(loudness @ WEIGHTS)


def save_model(folder, function, *signature, labels=LABELS, integers=None):
    """A function of tensors as `folder`/model.tflite, with labels.txt; int8 where a shape is given for `integers`."""
    concrete = tf.function(function, autograph=False).get_concrete_function(*signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
    if integers:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([np.full(integers, 0.1, "float32")] for _ in range(2))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(converter.convert())
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def spec(*shape, dtype=tf.float32):
    return tf.TensorSpec(shape, dtype)


OTHER_SHAPES = {  # functions and what they take, and what must be said of them
    "flat": (lambda x: body(x[None]), [spec(16_000)], "takes float32 [16000]"),
    "three": (lambda x: body(x[..., 0]), [spec(1, 16_000, 1)], "takes float32 [1, 16000, 1]"),
    "longer": (lambda x: body(x[:, :16_000]), [spec(1, 44_032)], "takes float32 [1, 44032]"),
    "int16": (
        lambda x: body(tf.cast(x, tf.float32)),
        [spec(1, 16_000, dtype=tf.int16)],
        "takes int16 [1, 16000]",
    ),
    "int8": (body, [spec(1, 16_000)], "takes int8 [1, 16000]"),
    "features": (lambda x: x[:, :12], [spec(1, 1_960)], "takes int8 [1, 1960]"),
    "two inputs": (lambda x, y: body(x) + tf.reduce_sum(y), [spec(1, 16_000), spec(1, 4)], " and float32 ["),
    "two outputs": (lambda x: (body(x), x[:, :1]), [spec(1, 16_000)], "gives float32 [1, 1"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders with model.tflite and labels.txt: plain, those of OTHER_SHAPES, and one of NaN (read only)."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "plain", body, spec(1, 16_000))
    save_model(folder / "nan", lambda x: body(x) + tf.math.log(tf.reduce_min(x) - 1), spec(1, 16_000))
    for name, (function, signature, _) in OTHER_SHAPES.items():
        integers = tuple(signature[0].shape) if name in ("int8", "features") else None
        save_model(folder / name, function, *signature, integers=integers)
    return folder


@pytest.fixture(scope="module")
def own(models, tmp_path_factory):
    """A copy of the plain model's folder for labels of one's own."""
    return shutil.copytree(models / "plain", tmp_path_factory.mktemp("own") / "model")


def refused_by_pi(capsys, *arguments):
    """What pi.py says when it ends with an error: one line."""
    with pytest.raises(SystemExit) as stopped:
        pi.main([str(argument) for argument in arguments])
    said = stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err
    assert stopped.value.code and "Traceback" not in said
    return said


def refused(capsys, *arguments):
    """What kws says when it ends with status 2: one line, below the bars and what libraries say."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr().err.rstrip("\n")
    assert stopped.value.code == 2 and "Traceback" not in said
    return said


def run_python(*arguments, **environment):
    program = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    return subprocess.run(program, env=environment, capture_output=True, timeout=120)


# which files are clips, and which of them are watched


def test_files_that_macos_leaves_are_no_clips(models, tmp_path):
    folder = make_clips(tmp_path / "corpus/test/audio", "b.wav", "a.WAV", "._a.wav", ".hidden.wav")
    (folder / "c.wav").mkdir()
    (folder / "notes.txt").touch()
    assert [path.name for path in clips_to_predict(tmp_path / "corpus")] == ["a.WAV", "b.wav"]
    assert [path.name for path in clips_to_predict(folder)] == ["a.WAV", "b.wav"], "a folder of wav files"
    pi.main(["submit", str(models / "plain/model.tflite"), str(folder), str(tmp_path / "x.csv")])
    assert [row[0] for _, row in csv_rows(tmp_path / "x.csv")] == ["fname", "a.WAV", "b.wav"]
    place = split.Place.of(tmp_path, pd.DataFrame({"label": pd.Categorical([], LABELS)}), tmp_path / "corpus")
    columns = "path word label speaker split sample start gain".split()
    both = runs.with_unlabelled(place._replace(manifest=place.manifest.reindex(columns=columns)))
    assert [Path(path).name for path in both.path] == ["a.WAV", "b.wav"]


def test_the_manifest_watches_the_files_that_it_is_made_of(tmp_path):
    folder = make_clips(tmp_path, "yes/a_0.wav", "_background_noise_/hum.wav", "test/audio/c.wav")
    watched = corpus_files(folder)
    assert watched == [*recordings(folder), *noise_recordings(folder)] and len(watched) == 2
    for name in (
        "yes/._a_0.wav",
        "yes/.DS_Store",
        "_background_noise_/._hum.wav",
        ".cache/x.wav",
        "test/audio/d.wav",
    ):
        write_wav(folder / name, tone(1))
    assert corpus_files(folder) == watched
    (folder / "validation_list.txt").touch()
    (folder / "testing_list.txt").touch()
    assert len(corpus_files(folder)) == 4


@pytest.mark.parametrize("command", ["predict", "check"])
def test_predict_and_check_ask_the_same_folders(command, models, tmp_path, capsys):
    """A corpus, or a folder of wav files: what one takes the other takes, too."""
    make_clips(tmp_path / "corpus/test/audio", "a.wav")
    make_clips(tmp_path / "flat", "a.wav", "b.wav")
    model = models / "plain/model.tflite"
    for folder, count in (("corpus", 1), ("flat", 2)):
        target, clips = tmp_path / f"{folder}.csv", clips_to_predict(tmp_path / folder)
        pi.main(["submit", str(model), str(clips[0].parent), str(target)])
        first, last = ([target], []) if command == "check" else ([model], [target])
        cli.main([command, *map(str, [*first, tmp_path / folder, *last])])
        assert f"{count} clips" in capsys.readouterr().out
    assert "no clips to predict" in refused(capsys, command, *first, tmp_path / "gone", *last)


# what a model must look like


@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_a_model_of_another_shape_is_told_before_the_first_clip(name, models, tmp_path, capsys):
    model, said = models / name / "model.tflite", OTHER_SHAPES[name][2]
    wanted = "wanted float32 [1, labels]" if said.startswith("gives") else "wanted float32 [1, 16000]"
    folder, target = make_clips(tmp_path / "clips", "a.wav"), tmp_path / "x.csv"
    for command in (
        ["submit", model, folder, target],
        ["label", model, folder / "a.wav"],
        ["bench", model, "--runs", "1"],
        ["listen", model],
    ):
        line = refused_by_pi(capsys, *command)
        assert line.startswith(f"{model}: ") and said in line and line.endswith(wanted) and "\n" not in line
    for command in (["predict", model, folder, target], ["bench", model, "--runs", "1"]):
        line = refused(capsys, *command).splitlines()[-1]
        assert line.startswith(f"{model}: ") and said in line and line.endswith(wanted)
    with pytest.raises(CourseError, match="wanted float32"):
        load_predictor(model)
    assert [path.name for path in tmp_path.iterdir()] == ["clips"], "something was written"


def keras_models():
    """Keras models that take no clips, or give something else than a row of probabilities: {name: (model, what is said)}."""
    layers, pcm = keras.layers, keras.Input((16_000,))
    short, pictures, extra = keras.Input((8_000,)), keras.Input((100, 96)), keras.Input((4,))
    whole, first = keras.Input((16_000,), dtype="int32"), layers.Dense(2)(pcm)
    nan = keras.initializers.Constant(float("nan"))
    return {
        "takes half a second": (keras.Model(short, layers.Dense(2)(short)), "does not take a clip of 16,000 samples"),
        "takes pictures": (keras.Model(pictures, layers.Flatten()(pictures)), "does not take a clip of 16,000 samples"),
        "takes integers": (keras.Model(whole, layers.Rescaling(1.0)(whole)), "takes int32, wanted float32"),
        "two inputs": (keras.Model([pcm, extra], layers.Concatenate()([pcm, extra])), "does not take a clip"),
        "two outputs": (keras.Model(pcm, [first, layers.Dense(1)(pcm)]), "gives 2 results for a clip"),
        "named outputs": (keras.Model(pcm, {"a": first, "b": layers.Dense(1)(pcm)}), "gives 2 results for a clip"),
        "rank 3": (keras.Model(pcm, layers.Reshape((2, 8_000))(pcm)), r"gives \(2, 8000\) for a clip"),
        "NaN": (keras.Model(pcm, layers.Dense(2, bias_initializer=nan)(pcm)), "gives what is not a number"),
    }  # fmt: skip


def test_a_keras_model_of_another_shape_is_told_by_all_who_take_one(tmp_path, capsys):
    for name, (model, said) in keras_models().items():
        path = tmp_path / f"{name}.keras"
        model.save(path)
        with pytest.raises(CourseError, match=f"{path}: {said}") as raised:
            load_predictor(path)
        assert "\n" not in str(raised.value), name
        assert refused(capsys, "freeze", path, tmp_path / "frozen") == str(raised.value)
        assert refused(
            capsys, "predict", path, make_clips(tmp_path / "clips", "a.wav"), tmp_path / "x.csv"
        ) == str(raised.value)
    assert not (tmp_path / "frozen").exists() and not (tmp_path / "x.csv").exists()


def test_a_tagger_is_told_from_a_model_of_words(tmp_path, capsys):
    pcm = keras.Input((16_000,))
    keras.Model(pcm, keras.layers.Dense(2)(pcm)).save(tmp_path / "epoch-0001.keras")
    with pytest.raises(
        CourseError, match="settings.json: the settings of epoch-0001.keras must lie beside it"
    ):
        load_tagger(tmp_path / "epoch-0001.keras")
    settings = {"classes": ["a", "b"], "windows": FrameSettings()._asdict()}
    write_json(tmp_path / "settings.json", settings)
    with pytest.raises(CourseError, match="epoch-0001.keras: has the shapes"):
        load_tagger(tmp_path / "epoch-0001.keras")
    for spoilt in ({"classes": ["a"]}, {"classes": ["a"], "windows": {"x": 1}}, {"windows": {}}):
        write_json(tmp_path / "settings.json", spoilt)
        with pytest.raises(CourseError, match="settings.json: not the settings of a tagger"):
            read_settings(tmp_path / "epoch-0001.keras")


def test_an_error_of_the_model_is_none_of_a_clip(models, tmp_path, capsys):
    folder = make_clips(tmp_path / "clips", "a.wav", "b.wav")
    model, target = models / "nan/model.tflite", tmp_path / "x.csv"
    for command in (["submit", model, folder, target], ["label", model, folder / "a.wav"], ["bench", model]):
        assert refused_by_pi(capsys, *command) == f"{model}: gives nan where a number is wanted"
    assert f"{model}: gives nan" in refused(capsys, "predict", model, folder, target)

    def sometimes(clips):
        return np.where(np.abs(clips).max(1) > 0.31, np.nan, 0.5)[:, None] * np.ones((1, 12))

    paths = clips_to_predict(folder)
    loud = [path for path in paths if np.abs(read_clip(path)).max() > 0.31]
    with pytest.raises(CourseError, match=f"gives what is not a number for {loud[0]}"):
        predict_clips(sometimes, paths, tmp_path / "p.npy")
    with pytest.raises(CourseError, match="11 outputs, there are 12 labels"):
        predict_clips(lambda clips: np.ones((len(clips), 11)), paths, tmp_path / "p.npy")
    (folder / "c.wav").write_text("none")
    zeros, unreadable = predict_clips(
        lambda clips: np.zeros((len(clips), 12)), clips_to_predict(folder), tmp_path / "p.npy"
    )
    assert unreadable == [str(folder / "c.wav")], "zeros are what the model says, and no unreadable clip"
    assert zeros[:, 0].tolist() == [0, 0, 1] and not zeros[:, 1:].any()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"silence\nunknown\nyes\n", "3 names, the model has 12 outputs"),
        (b"", "0 names, the model has 12 outputs"),
        ("\n".join(["silence", *LABELS[:-1]]).encode(), "silence stands there more than once"),
        ("\n".join([*LABELS[:-1], "stöp"]).encode("latin-1"), "not text in UTF-8"),
    ],
    ids=["three", "none", "repeated", "Latin-1"],
)
def test_labels_that_do_not_fit_are_told_before_the_first_clip(content, said, own, tmp_path, capsys):
    model, target = own / "model.tflite", tmp_path / "x.csv"
    (own / "labels.txt").write_bytes(content)
    folder = make_clips(tmp_path / "clips", "a.wav")
    for command in (["submit", model, folder, target], ["label", model, folder / "a.wav"], ["listen", model]):
        assert refused_by_pi(capsys, *command).startswith(f"{own / 'labels.txt'}: {said}")
    assert refused(capsys, "predict", model, folder, target).startswith(f"{own / 'labels.txt'}: {said}")
    assert not target.exists()


@pytest.mark.parametrize(
    "wrap", ["\ufeff{}", "{}\n\n", " {} "], ids=["byte order mark", "empty lines", "spaces"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_labels_are_read_as_editors_leave_them(wrap, end, own, tmp_path):
    (own / "labels.txt").write_bytes(wrap.format(end.join(LABELS)).encode())
    assert pi.load_labels(own / "labels.txt", 12) == list(LABELS)
    folder, model = make_clips(tmp_path / "clips", "a.wav", "b.wav"), str(own / "model.tflite")
    pi.main(["submit", model, str(folder), str(tmp_path / "x.csv")])
    cli.main(["predict", model, str(folder), str(tmp_path / "y.csv")])
    assert (tmp_path / "x.csv").read_text() == (tmp_path / "y.csv").read_text()


def test_labels_of_the_command_line_must_fit(models, tmp_path, capsys):
    arguments = [
        "predict",
        models / "plain/model.tflite",
        make_clips(tmp_path / "clips", "a.wav"),
        tmp_path / "x.csv",
    ]
    for labels in (LABELS[:3], [*LABELS[:-1], LABELS[0]]):
        line = refused(capsys, *arguments, "--labels", *labels)
        assert (
            line.startswith(f"{models / 'plain/model.tflite'}: has 12 outputs")
            and not (tmp_path / "x.csv").exists()
        )


# what an interrupted run belongs to


class Stopped(BaseException):
    pass


def test_a_stopped_submission_belongs_to_its_folder_and_its_clips(tmp_path):
    names = [f"{letter}.wav" for letter in "abcdef"]
    one, two = make_clips(tmp_path / "one", *names), make_clips(tmp_path / "two", *names[::-1])
    target, asked = tmp_path / "x.csv", []
    for path in (*one.iterdir(), *two.iterdir()):  # as archives leave them: the same names, sizes and times
        os.utime(path, (1e9, 1e9))

    def stop_after_three(clip):
        asked.append(1)
        if len(asked) > 3:
            raise Stopped
        return clip[:12]

    def rows_after_a_stop(folder):
        asked.clear()
        with pytest.raises(Stopped):
            pi.submit(stop_after_three, LABELS, one, target)
        pi.submit(lambda clip: np.eye(12)[int(clip.argmax()) % 12], LABELS, folder, target)
        return [tuple(row) for _, row in csv_rows(target)[1:]]

    def alone(folder):
        target.with_name("alone.csv").unlink(missing_ok=True)
        pi.submit(
            lambda clip: np.eye(12)[int(clip.argmax()) % 12], LABELS, folder, target.with_name("alone.csv")
        )
        return [tuple(row) for _, row in csv_rows(target.with_name("alone.csv"))[1:]]

    assert rows_after_a_stop(two) == alone(two) and [name for name, _ in alone(two)] == names
    assert [name for name, _ in rows_after_a_stop(one)] == names
    make_clips(one, "aa.wav")  # among those that are labelled already
    assert [name for name, _ in rows_after_a_stop(one)] == sorted([*names, "aa.wav"])
    asked.clear()
    with pytest.raises(Stopped):
        pi.submit(stop_after_three, LABELS, one, target)
    (one / "a.wav").unlink()
    pi.submit(lambda clip: clip[:12], LABELS, one, target)
    assert [row[0] for _, row in csv_rows(target)[1:]] == sorted([*names[1:], "aa.wav"])


def test_a_stopped_prediction_belongs_to_its_clips_and_its_model(tmp_path):
    folder = make_clips(tmp_path / "clips", *(f"{letter}.wav" for letter in "abcdef"))
    asked = []

    def predict(clips):
        asked.append(len(clips))
        if len(asked) == 3:
            raise Stopped
        return np.abs(clips[:, 8_000:8_012])

    def rows_after_a_stop(change, version="one"):
        paths = clips_to_predict(folder)
        shutil.rmtree(tmp_path / "p.parts", ignore_errors=True)
        asked.clear()
        with pytest.raises(Stopped):
            predict_clips(predict, paths, tmp_path / "p.npy", "one", part=1)
        change()
        paths = clips_to_predict(folder)
        found = predict_clips(predict, paths, tmp_path / "p.npy", version, part=1)[0]
        assert np.allclose(found, [np.abs(read_clip(path)[8_000:8_012]) for path in paths])
        (tmp_path / "p.npy").unlink()
        return len(asked) - 3

    assert rows_after_a_stop(lambda: None) == 4  # two of six were done
    assert rows_after_a_stop(lambda: None, "two") == 6
    assert rows_after_a_stop(lambda: write_wav(folder / "a.wav", tone(77))) == 6
    assert rows_after_a_stop(lambda: make_clips(folder, "aa.wav")) == 7
    assert rows_after_a_stop((folder / "a.wav").unlink) == 6


def test_a_prediction_leaves_files_of_other_names_alone(models, tmp_path):
    """model.json beside a model says how it was trained: a submission of that name must not take its place."""
    folder = make_clips(tmp_path / "clips", "a.wav")
    for name in ("model.json", "model.npy"):
        (tmp_path / name).write_text("mine")
    for target in ("model.csv", "x.npy", "x.json", "x", "deep/er/x.csv"):
        for _ in range(2):
            cli.main(["predict", str(models / "plain/model.tflite"), str(folder), str(tmp_path / target)])
        assert [row[0] for _, row in csv_rows(tmp_path / target)] == ["fname", "a.wav"]
    assert {(tmp_path / name).read_text() for name in ("model.json", "model.npy")} == {"mine"}


def test_a_corpus_that_was_begun_with_other_words_is_begun_anew(tmp_path, monkeypatch):
    sizes = {"tiny": (10, 1, 1, 10)}
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("kws.infra.synthetic.write_csv", lambda *_: (_ for _ in ()).throw(Stopped))
        make_synthetic(tmp_path / "made", "tiny", sizes=sizes, words=("yes", "no"))
    assert (tmp_path / "made/train/audio/no").exists()
    make_synthetic(tmp_path / "made", "tiny", sizes=sizes, words=("yes",))
    assert {path.name for path in (tmp_path / "made/train/audio").iterdir()} == {"yes", "_background_noise_"}


# what a CSV is


GOOD = "fname,label\na.wav,yes\nb.wav,no\n"
ROWS = [["fname", "label"], ["a.wav", "yes"], ["b.wav", "no"]]


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        '\ufeff"fname","label"\r\n"a.wav","yes"\r\n"b.wav","no"\r\n',
        GOOD + "\n\n",
        GOOD.replace("b.wav", "\n\nb.wav"),
        GOOD.rstrip(),
    ],
    ids=["plain", "BOM", "CRLF", "CR", "Excel", "empty lines after", "empty lines between", "no end"],
)
def test_a_csv_is_read_however_programs_write_it(content, tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(content.encode())
    assert [row for _, row in csv_rows(path)] == ROWS
    assert read_csv(path, ("fname", "label"), text=True).to_numpy().tolist() == ROWS[1:]
    sample = tmp_path / "sample.csv"
    sample.write_bytes(content.encode())
    make_clips(tmp_path / "clips", "a.wav", "b.wav")
    assert [clip.name for clip in named_clips(sample, tmp_path / "clips")] == ["a.wav", "b.wav"]
    (tmp_path / "solution.csv").write_text("fname,label,Usage\nb.wav,no,Private\na.wav,no,Private\n")
    assert score_submission(path, tmp_path / "solution.csv").accuracy["Private"] == 0.5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no column fname, label"),
        (GOOD.replace(",", ";").encode(), "has no column fname, label; its columns: fname;label"),
        (GOOD.replace("b.wav,no", "b.wav,no,up").encode(), "not a table .line 3 has 3 cells, the first 2"),
        (GOOD.replace("\n", ",\n").replace("label,", "label").encode(), "not a table .line 2 has 3 cells"),
        (
            GOOD.replace("label", "label,label").replace("yes", "yes,no").encode(),
            "has more than one column label",
        ),
        (GOOD.replace("b.wav", '"b.wav').encode(), "not a table .unexpected end of data"),
        (GOOD.encode("utf-16"), "cannot be read as text in UTF-8"),
        (GOOD.replace("b.wav", "é.wav").encode("latin-1"), "cannot be read as text in UTF-8"),
    ],
    ids=[
        "empty",
        "semicolons",
        "long row",
        "commas at the end",
        "header twice",
        "open quote",
        "UTF-16",
        "Latin-1",
    ],
)
def test_a_csv_that_is_none_is_named(content, said, tmp_path):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(CourseError, match=f"x.csv: {said}") as raised:
        read_csv(tmp_path / "x.csv", ("fname", "label"), text=True)
    assert "\n" not in str(raised.value)


def test_cells_stay_the_text_that_stands_there(tmp_path):
    (tmp_path / "x.csv").write_text('fname,label\nNA,null\n007,1.0\n"a,""b"".wav",\nshort\n')
    table = read_csv(tmp_path / "x.csv", ("fname", "label"), text=True)
    assert table.to_numpy().tolist() == [["NA", "null"], ["007", "1.0"], ['a,"b".wav', ""], ["short", ""]]


def test_a_submission_is_read_as_it_is_written(models, tmp_path):
    names = ['a,"b".wav', "c d.wav", "ü.wav"]
    folder = make_clips(tmp_path / "clips", *names)
    paths = clips_to_predict(folder)
    write_submission(paths, np.eye(12)[:3], tmp_path / "x.csv")
    check_submission(tmp_path / "x.csv", paths)
    assert [row[0] for _, row in csv_rows(tmp_path / "x.csv")] == ["fname", *names]
    pi.main(["submit", str(models / "plain/model.tflite"), str(folder), str(tmp_path / "y.csv")])
    check_submission(tmp_path / "y.csv", paths)
    cli.main(["check", str(tmp_path / "y.csv"), str(folder)])


# the machine around it


BACKEND = """
from kws.infra.backend import keras
print(keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format(), keras.config.dtype_policy().name)
"""


def test_numbers_do_not_depend_on_keras_json(tmp_path):
    settings = {
        "floatx": "float16",
        "epsilon": 0.1,
        "image_data_format": "channels_first",
        "backend": "torch",
    }
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(json.dumps(settings))
    done = run_python("-c", BACKEND, HOME=str(tmp_path), KERAS_MAX_EPOCHS="1")
    assert done.stdout.decode().split() == ["float32", "1e-07", "channels_last", "float32"], done.stderr


TRAINING = """
import os, sys
os.chdir(sys.argv[1])
from kws.cli import main
main("train --random-data --epochs 2 --model dnn".split())
"""


@pytest.mark.full
def test_a_training_is_the_same_whatever_keras_json_says(tmp_path):
    losses = []
    for settings in ("{}", '{"floatx": "float64"}', '{"floatx": "float16", "backend": "jax"}'):
        home = tmp_path / str(len(losses))
        (home / ".keras").mkdir(parents=True)
        (home / ".keras/keras.json").write_text(settings)
        done = run_python("-c", TRAINING, home, HOME=str(home), KERAS_MAX_EPOCHS="1")
        assert done.returncode == 0, done.stderr
        losses.append(pd.read_csv(home / "data/random/dnn.csv").loss.tolist())
    assert len(losses[0]) == 2 and losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    ("environment", "settings", "said"),
    [
        (
            {"KERAS_BACKEND": "torch"},
            "{}",
            "KERAS_BACKEND=torch: the course needs Keras on TensorFlow. Unset it",
        ),
        ({"KERAS_BACKEND": ""}, '{"floatx": "float8"}', "keras.json: Keras does not start with it"),
    ],
    ids=["torch", "no floatx"],
)
def test_another_keras_ends_with_one_sentence(environment, settings, said, tmp_path):
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(settings)
    command = ["-m", "kws.cli", "train", "--random-data", "--epochs", "1"]
    done = run_python(*command, HOME=str(tmp_path), **environment)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and said in done.stderr.decode()


@pytest.mark.parametrize("text", ["x", "[]", '{"task": 3}', " "])
def test_tf_config_is_told_where_it_is_none(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(CourseError, match="TF_CONFIG: not the JSON"):
        runs.worker_number()


@pytest.mark.parametrize("text", ["", "{}"])
def test_an_empty_tf_config_names_no_workers(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    assert runs.worker_number() == 0
    if not text:
        assert runs.choose_strategy().num_replicas_in_sync >= 1


@pytest.fixture(scope="module")
def german(tmp_path_factory):
    """Environment of a terminal in Latin-1."""
    folder = tmp_path_factory.mktemp("locale")
    build = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / "de_DE.ISO-8859-1")]
    if not shutil.which("localedef") or subprocess.run(build, capture_output=True).returncode:
        pytest.skip("such a terminal cannot be made here")
    return {"LOCPATH": str(folder), "LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0"}


def test_a_terminal_in_latin_1_shows_its_letters(german, own, tmp_path):
    (own / "labels.txt").write_text("\n".join(["stöp", "語", *LABELS[2:]]), encoding="utf-8")
    clip = make_clips(tmp_path / "clips", "größe.wav") / "größe.wav"
    done = run_python(pi.__file__, "label", own / "model.tflite", clip, **german)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode("latin-1")
    assert "größe.wav: " in said and "Ã" not in said
    assert ("stöp " in said) + ("\\u8a9e " in said) >= 1
    target = tmp_path / "x.csv"
    assert (
        run_python(pi.__file__, "submit", own / "model.tflite", clip.parent, target, **german).returncode == 0
    )
    name, label = csv_rows(target)[1][1]
    assert name == "größe.wav" and label in ("stöp", "語", *LABELS)


def test_words_are_found_in_a_terminal_in_latin_1(german, tmp_path):
    make_clips(tmp_path, "stöp/a_0.wav", "bed/a_0.wav")
    program = f"""
from kws.split import scan_corpus
clips = scan_corpus({str(tmp_path)!r}, ("st\\xf6p",))[0]
print(ascii(clips.groupby("word").label.first().to_dict()))
"""
    done = run_python("-c", program, **german)
    assert done.stdout.decode().strip() == "{'bed': 'unknown', 'st\\xf6p': 'st\\xf6p'}", done.stderr[-500:]


def test_texts_are_read_and_written_in_one_encoding():
    """The locale's would be another one on another machine. In what is written by hand; nbdev writes the rest."""
    for path in [*(ROOT / "kws").glob("*.py"), *(ROOT / "kws/infra").glob("*.py")]:
        tree = ast.parse(text := path.read_text(encoding="utf-8"))
        for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
            if (
                getattr(call.func, "attr", "") in ("read_text", "write_text")
                and "# AUTOGENERATED" not in text
            ):
                assert "encoding" in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}"


FEW_FILES = """
import os, resource, sys
from kws.infra import synthetic
from kws.infra.files import CourseError
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
say = synthetic.load_espeak()
say("yes", "en+f1")
held = [open(os.devnull) for _ in range(64 - len(os.listdir("/proc/self/fd")) + 1)]
for free in range(4):
    for step in (lambda: say("yes", "en-us+m3"), synthetic.load_espeak, lambda: synthetic.make_synthetic(sys.argv[1], "smoke")):
        try:
            step()
        except CourseError as error:
            print(error)
    held.pop().close()
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_too_many_open_files_are_told_by_their_limit(tmp_path):
    """As in a kernel, which has 62 files open by itself, with `ulimit -n 64`."""
    done = run_python("-c", FEW_FILES, tmp_path / "made")
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 12 and all("oo many" in line and "ulimit -n" in line for line in lines), done
    assert b"Traceback" not in done.stderr and b"dictionary" not in done.stderr


def test_a_step_says_that_too_many_files_are_open(tmp_path):
    with pytest.raises(CourseError, match="x.csv: too many files are open. Allow more: ulimit -n"):
        with exclusive_write(tmp_path / "x.csv"):
            raise OSError(24, "Too many open files")


def test_an_unknown_voice_is_still_an_unknown_voice():
    with pytest.raises(CourseError, match="espeak-ng has no voice nobody"):
        load_espeak()("yes", "nobody")


# the microphone


@pytest.fixture
def arecord(tmp_path, monkeypatch):
    """Function (program text): puts a stand-in for arecord on the path; returns the chunks heard, seconds, and the last word."""

    def listen(text, **options):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "arecord").write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{text}")
        (folder / "arecord").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        heard, start = [], time.perf_counter()
        with pytest.raises(SystemExit) as stopped:
            heard.extend(pi.microphone(**options))
        return heard, time.perf_counter() - start, stopped.value.code

    return listen


def test_a_busy_recorder_is_heard_to_its_end(arecord):
    """4,000 messages that nobody asked for, and 4,000 chunks."""
    text = """
for _ in range(4_000):
    os.write(2, b"overrun!!! (at least 1.234 ms long)\\n")
    os.write(1, b"\\1\\0" * 1_600)
"""
    heard, seconds, said = arecord(text)
    assert (
        len(heard) == 4_000 and {chunk.shape for chunk in heard} == {(1_600,)} and heard[-1][0] == 1 / 32_768
    )
    assert seconds < 2 and said == "the microphone gives no more sound. overrun!!! (at least 1.234 ms long)"


WARNING = "Warning: rate is not accurate (requested = 16000Hz, got = 48000Hz)"


RECORDERS = {
    "goes on": f"""
os.write(2, b"Recording raw data\\n{WARNING}\\n         please, try the plug plugin\\n")
while True:
    os.write(1, bytes(3_200))
""",
    "in two pieces": f"""
os.write(2, b"{WARNING[:20]}")
time.sleep(0.1)
os.write(2, b"{WARNING[20:]}\\n")
os.write(1, bytes(32_000))
time.sleep(60)
""",
    "does not end": f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(2, b"{WARNING}\\n")
time.sleep(60)
""",
    "speaks German elsewhere": f"""
os.write(2, b"{WARNING}\\n" if os.environ["LC_ALL"] == "C" else b"Warnung")
os.write(1, bytes(32_000))
""",
}


@pytest.mark.parametrize("text", RECORDERS.values(), ids=RECORDERS)
def test_a_recorder_at_another_rate_is_stopped_before_the_first_chunk(text, arecord, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    heard, seconds, said = arecord(text)
    assert not heard and seconds < 5
    assert WARNING in said and "-D plughw:" in said and "--device plughw:" in said and "\n" not in said


def test_a_recorder_that_talks_before_it_plays_is_heard(arecord):
    heard, _, said = arecord(
        "for _ in range(3_000):\n    os.write(2, b'x' * 99 + b'\\n')\nos.write(1, bytes(16_000))\n"
    )
    assert len(heard) == 5 and said.startswith("the microphone gives no more sound.")


def test_a_recorder_without_sound_ends_the_program(arecord):
    heard, seconds, _ = arecord("os.write(1, bytes(3_200))\nos.close(1)\ntime.sleep(60)\n")
    assert len(heard) == 1 and seconds < 5
    assert (
        "audio open error"
        in arecord("sys.exit('arecord: main:830: audio open error: No such file or directory')")[2]
    )
    with pytest.raises(ValueError, match="stride_ms=0"):
        next(pi.microphone(0))


def test_a_recorder_that_has_fallen_silent_is_given_up(arecord, monkeypatch):
    monkeypatch.setattr(pi, "PATIENCE", 0.5)
    heard, seconds, said = arecord("os.write(1, bytes(3_200))\ntime.sleep(60)\n")
    assert len(heard) == 1 and seconds < 5 and said.startswith("the microphone gives no more sound.")


def test_a_device_that_has_no_single_channel_is_told_to_convert(arecord):
    said = arecord("sys.exit('arecord: set_params:1352: Channels count non available')\n")[2]
    assert "Channels count non available" in said and "--device plughw:" in said


def test_a_device_is_passed_on(arecord, tmp_path):
    asked = tmp_path / "asked"
    arecord(f"open({str(asked)!r}, 'w').write(' '.join(sys.argv[1:]))\n", device="plughw:1,0")
    assert asked.read_text().endswith("-r 16000 -c 1 -D plughw:1,0") and "-q" not in asked.read_text().split()


# messages that guess one reason


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["training/yes/a.wav", "validation/yes/b.wav", "testing/no/c.wav"], "testing/no/c.wav"),
        (["yes/speaker/x.wav", "no/speaker/x.wav"], "no/speaker/x.wav"),
        (["speech/train/audio/yes/x.wav", "speech/test/audio/c.wav"], "speech/train/audio/yes/x.wav"),
        (["train/audio/.keep", "yes/x.wav"], "yes/x.wav"),
        (["x.flac"], "x.flac"),
        (["_yes_/x.wav"], "_yes_/x.wav"),
        (["yes/.DS_Store", "no/.DS_Store", "no/._x.wav"], None),
        (["_background_noise_/x.wav", "test/audio/c.wav"], None),
    ],
    ids=[
        "three splits",
        "speakers",
        "too deep",
        "empty train/audio",
        "flat",
        "underscores",
        "only .DS_Store",
        "no words",
    ],
)
def test_what_a_corpus_looks_like_is_told_with_a_file_found_elsewhere(files, found, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(CourseError) as raised:
        get_corpus(tmp_path)
    said = str(raised.value)
    assert (
        said == str(no_recordings(tmp_path))
        and "<word>/<speaker>_nohash_<n>.wav" in said
        and "\n" not in said
    )
    assert (f"There is {tmp_path / found}: move it" if found else "There are none elsewhere") in said
    with pytest.raises(CourseError, match="no recordings. They are expected as"):
        scan_corpus(tmp_path, ("yes",))


@pytest.mark.parametrize(
    ("count", "seconds", "splits"),
    [
        (9, 9, {"train": 63, "val": 9, "test": 9}),
        (3, 1, {"train": 1, "val": 1, "test": 1}),
        (1, 10, {"train": 8, "val": 1, "test": 1}),
    ],
)
def test_nine_noises_of_nine_seconds_are_three_splits(count, seconds, splits, tmp_path):
    for number in range(count):
        write_wav(tmp_path / f"_background_noise_/{number}.wav", np.full(16_000 * seconds, 0.1))
    found = noise_stretches(tmp_path)
    assert ((found.stop - found.start).groupby(found.split).sum() // 16_000).to_dict() == splits


def test_too_little_noise_says_the_rule(tmp_path):
    write_wav(tmp_path / "_background_noise_/a.wav", np.full(44_100, 0.1), 44_100)
    with pytest.raises(
        CourseError, match="a.wav was skipped: .* 44,100 Hz.* a recording of ten seconds or more.*or three of"
    ):
        noise_stretches(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("bench --threads -5", "-5: from 1 to"),
        ("bench --threads 1000000", "1000000: from 1 to"),
        ("bench --runs 0", "0: from 1 to"),
        ("bench --runs 9999999999999", "from 1 to"),
        ("bench --runs 1.5", "invalid int value"),
        ("listen --threshold nan", "nan: from 0 to 1"),
        ("listen --threshold 2", "2: from 0 to 1"),
    ],
)
def test_a_number_out_of_range_is_told_by_pi(arguments, said, models, capsys):
    command, *options = arguments.split()
    assert said in refused_by_pi(capsys, command, models / "plain/model.tflite", *options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train --random-data --epochs 0", "--epochs"),
        ("train --random-data --epochs -3", "--epochs"),
        ("train --random-data --epochs 1.5", "'1.5' is no whole number"),
        ("train --random-data --epochs 1 --seed -1", "--seed"),
        ("train --random-data --epochs 1 --seed 99999999999", "--seed"),
        ("train --random-data --epochs 1 --patience 0", "--patience"),
        ("corpus synthetic --seed 4294967296", "--seed"),
        ("bench MODEL --runs 0", "--runs"),
        ("bench MODEL --threads -5", "--threads"),
        ("bench MODEL --threads 1000000", "--threads"),
        ("tag train --train-csv x --train-clips x --batch-size 0", "--batch-size"),
        ("tag train --train-csv x --train-clips x --keep-every 0", "--keep-every"),
        ("tag train --train-csv x --train-clips x --width nan", "--width"),
        ("tag train --train-csv x --train-clips x --dropout 1", "--dropout"),
        ("tag train --train-csv x --train-clips x --learning-rate nan", "--learning-rate"),
        ("tag train --train-csv x --train-clips x --features hop=0", "hop=0.0: more than 0 is wanted"),
        ("tag train --train-csv x --train-clips x --features hop=nan", "hop=nan: more than 0 is wanted"),
        ("tag train --train-csv x --train-clips x --features bands=64.5", "bands=64.5: a number is expected"),
        ("train --corpus= --model linear", "CORPUS=: name a corpus"),
    ],
)
def test_a_number_out_of_range_is_told_by_kws(arguments, said, models, capsys):
    words = [str(models / "plain/model.tflite") if word == "MODEL" else word for word in arguments.split()]
    assert said in refused(capsys, *words)


@pytest.mark.parametrize(
    "call",
    [
        lambda folder: pi.load_litert(folder / "plain/model.tflite", threads=-5),
        lambda folder: pi.load_litert(folder / "plain/model.tflite", threads=10**6),
        lambda folder: pi.time_runs(int, 0),
        lambda folder: pi.KeywordDetector(LABELS, threshold=float("nan")),
        lambda folder: pi.KeywordDetector(LABELS, window_ms=0),
        lambda folder: pi.KeywordDetector(LABELS[:2]),
        lambda folder: read_clip(folder / "x.wav", start=-1),
        lambda folder: read_clip(folder / "x.wav", gain=float("nan")),
        lambda folder: predict_clips(lambda clips: clips, ["x.wav"], folder / "p.npy", batch_size=0),
        lambda folder: predict_clips(lambda clips: clips, ["x.wav"], folder / "p.npy", part=0),
        lambda folder: predict_clips(lambda clips: clips, [], folder / "p.npy"),
        lambda folder: inference.milliseconds(folder / "x.keras", runs=0),
        lambda folder: get_corpus("synthetic", "smoke", -1),
        lambda folder: make_noises(folder / "noise", 0),
        lambda folder: make_synthetic(folder / "made", "huge"),
        lambda folder: tagging.compile_tags(keras.Sequential(), 1, decay_epochs=0),
        lambda folder: tagging.mobilenet_v1(2, width=float("nan")),
        lambda folder: tagging.mobilenet_v1(2, dropout=1.0),
        lambda folder: tagging.mobilenet_v1(2, pool="median"),
        lambda folder: runs.Options("linear", 0),
        lambda folder: runs.Options("linear", 1, seed=-1),
        lambda folder: wilson(0, 0),
        lambda folder: score([], []),
        lambda folder: score([1], [1, 2]),
        lambda folder: apply_temperature(np.ones((1, 2)), 0),
        lambda folder: apply_temperature(np.ones((1, 2)), float("nan")),
        lambda folder: reliability(np.ones((1, 2)), np.zeros(1), bins=0),
        lambda folder: label_precisions(np.eye(2), np.full((2, 2), np.nan)),
    ],
)
def test_a_number_out_of_range_is_told_by_a_function(call, models):
    with pytest.raises(
        ValueError, match=r"wanted|no part of|are the least|there are|can be told|not numbers"
    ) as raised:
        call(models)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sample_rate": 16_000}, "frequencies up to 8,000 Hz. Set high=8000 or less"),
        ({"hop": 0}, "hop=0: more than 0"),
        ({"hop": float("nan")}, "hop=nan: more than 0"),
        ({"window": float("inf")}, "window=inf"),
        ({"frame": 1e-6}, "shorter than a sample"),
        ({"bands": 600}, "bands=600.* never change. Set fewer bands"),
        ({"bands": 10**9}, "bands=1000000000"),
        ({"sample_rate": 8_000, "high": 4_000.0}, "31 Hz apart"),
    ],
)
def test_features_that_would_never_change_are_refused(changed, said, tmp_path):
    with pytest.raises(CourseError, match=said):
        FrameSettings(**changed).check()
    with pytest.raises(CourseError, match=said):
        train_tags(tmp_path, pd.DataFrame(), ["a"], 1, windows=FrameSettings(**changed))


@pytest.mark.parametrize("rate", [16_000, 22_050, 32_000, 48_000])
def test_the_value_that_is_given_for_clips_of_another_rate_is_right(rate):
    with contextlib.suppress(CourseError):
        FrameSettings(sample_rate=rate).check()
    windows = FrameSettings(sample_rate=rate, high=min(20_000.0, rate / 2)).check()
    sound = np.random.default_rng(0).normal(0, 0.1, rate).astype("float32")
    pictures = tagging.log_mel_windows(tagging.whole_windows(sound, windows), windows).numpy()
    assert (pictures[0].std(0) > 1e-3).all(), "some bands are constant"


def solution_of(usage):
    rows = "".join(
        f"{letter}.wav,{label},{use}\n" for letter, label, use in zip("abc", ("yes", "no", "up"), usage)
    )
    return f"fname,label,Usage\n{rows}"


def test_a_board_goes_on_where_one_csv_is_none(tmp_path, capsys):
    (tmp_path / "good.csv").write_text("fname,label\na.wav,yes\nb.wav,no\nc.wav,no\n")
    (tmp_path / "short.csv").write_text("fname,label\na.wav,yes\n")
    (tmp_path / "text.csv").write_text("hello")
    csvs = [tmp_path / f"{name}.csv" for name in ("gone", "short", "text", "good")]
    for usage, private, public in (
        (["Public", "Private", "Private"], 0.5, 1),
        (["Private"] * 3, 2 / 3, None),
        (["Public"] * 3, None, 2 / 3),
    ):
        (tmp_path / "solution.csv").write_text(solution_of(usage))
        row = leaderboard(csvs, tmp_path / "solution.csv").loc["good"]
        for found, expected in ((row.private, private), (row.public, public)):
            assert found == pytest.approx(expected) if expected else np.isnan(found)
        said = capsys.readouterr().out
        assert "gone.csv: there is no such file" in said and "text.csv: has no column" in said
        assert "short.csv: must name each of the 3 clips" in said
    cli.main(["board", str(tmp_path / "solution.csv"), *map(str, csvs)])
    assert "0.6667" in capsys.readouterr().out
    assert "none of 1 CSVs could be scored" in refused(capsys, "board", tmp_path / "solution.csv", csvs[0])
    (tmp_path / "solution.csv").write_text(solution_of(["Private"] * 3))
    assert "has no public clips" in refused(capsys, "board", tmp_path / "solution.csv", csvs[-1], "--public")
    assert "gone.csv: there is no such file" in refused(capsys, "board", csvs[0], csvs[-1])


def test_files_that_cannot_be_there_are_named(models, tmp_path, capsys):
    folder, model = make_clips(tmp_path / "clips", "a.wav"), models / "plain/model.tflite"
    inside = folder / "a.wav/x.csv"
    assert refused_by_pi(capsys, "submit", model, folder, folder) == f"{folder}: is a folder. Name a csv file"
    assert "a.wav" in refused_by_pi(capsys, "submit", model, folder, inside)
    assert refused(capsys, "predict", model, folder, folder) == f"{folder}: is a folder. Name a file"
    assert "a.wav" in refused(capsys, "predict", model, folder, inside)
    pi.main(["submit", str(model), str(folder), str(tmp_path / "new/er/x.csv")])
    assert (tmp_path / "new/er/x.csv").exists()
    (tmp_path / "empty.tflite").touch()
    shutil.copy(models / "plain/labels.txt", tmp_path)
    assert "empty.tflite: not a LiteRT model" in refused_by_pi(capsys, "bench", tmp_path / "empty.tflite")
    assert "gone.tflite: there is no such file" in refused_by_pi(capsys, "bench", tmp_path / "gone.tflite")
    for name, said in (("gone.keras", "there is no such file"), ("empty.tflite", "not a .keras file")):
        assert f"{name}: no model to load ({said})" in refused(capsys, "freeze", tmp_path / name)


# names as keys


def test_a_latin_1_name_is_listed_and_the_rest_goes_on(corpus, tmp_path):
    own = shutil.copytree(corpus, tmp_path / "corpus")
    odd = [latin(own / "yes", "café_0.wav"), latin(own / "_background_noise_", "rué.wav")]
    for path in odd:
        shutil.copy(own / "_background_noise_/room.wav", path)
    (own / "bed").rename(latin(own, "béd"))
    place = make_manifest(own, tmp_path / "work", words=("yes",), held_out=())
    assert (
        set(place.manifest.word) == {"yes", "_background_noise_"}
        and (place.manifest.speaker != "").sum() == 30
    )
    skipped = read_csv(tmp_path / "work/skipped.csv", ("path", "reason"), text=True)
    assert len(skipped) == 31 and set(skipped.reason) == {"a name that is no UTF-8: rename it"}
    assert as_text(odd[0]) in set(skipped.path)


def test_latin_1_names_among_clips_to_predict(models, tmp_path, capsys):
    folder = make_clips(tmp_path / "clips", "a.wav", "b.wav")
    odd = latin(folder, "é.wav")
    shutil.copy(folder / "a.wav", odd)
    pi.main(["submit", str(models / "plain/model.tflite"), str(folder), str(tmp_path / "x.csv")])
    assert ".wav: a name that is no UTF-8, left out" in capsys.readouterr().err
    cli.main(["predict", str(models / "plain/model.tflite"), str(folder), str(tmp_path / "y.csv")])
    assert ".wav: a name that is no UTF-8, left out" in capsys.readouterr().out
    assert (tmp_path / "x.csv").read_text() == (tmp_path / "y.csv").read_text()
    assert [row[0] for _, row in csv_rows(tmp_path / "x.csv")] == ["fname", "a.wav", "b.wav"]
    odd.write_bytes(b"RIFF")
    with pytest.raises(CourseError, match="wav: cannot be read"):
        read_clip(odd)
    found, unreadable = predict_clips(
        lambda clips: np.ones((len(clips), 12)), [odd, folder / "a.wav"], tmp_path / "p.npy"
    )
    assert unreadable == [str(odd)] and found[0].tolist() == [1] + [0] * 11


def test_tables_and_notes_take_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    write_csv(tmp_path / "x.csv", pd.DataFrame({"fname": [name]}))
    assert "\\udce9.wav" in (tmp_path / "x.csv").read_text(encoding="utf-8")
    write_json(tmp_path / "x.json", {"corpus": name, "word": "größe"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"corpus": name, "word": "größe"}


def test_accents_are_equal_however_they_are_composed(tmp_path):
    assert DECOMPOSED != "stöp" == same_name(DECOMPOSED)
    make_clips(tmp_path, f"{DECOMPOSED}/a_0.wav", "stöp/b_0.wav", "bed/a_0.wav")
    for words in (("stöp",), (DECOMPOSED,)):
        clips, _ = scan_corpus(tmp_path, words)
        assert clips.label.tolist() == ["unknown", "stöp", "stöp"]


def test_a_sample_names_clips_in_another_form(tmp_path):
    folder = make_clips(tmp_path / "clips", f"{DECOMPOSED}.wav", "b.wav")
    sample = tmp_path / "sample.csv"
    sample.write_text("fname\nb.wav\nstöp.wav\n", encoding="utf-8")
    assert named_clips(sample, folder) == [folder / "b.wav", folder / f"{DECOMPOSED}.wav"]
    make_clips(folder, "stöp.wav")
    sample.write_text(f"fname\nstöp.wav\n{DECOMPOSED}.wav\n", encoding="utf-8")
    if len(list(folder.iterdir())) == 3:  # both are there: each is itself
        assert named_clips(sample, folder) == [folder / "stöp.wav", folder / f"{DECOMPOSED}.wav"]
        (folder / "stöp.wav").unlink()
    with pytest.raises(CourseError, match="stands there twice"):
        named_clips(sample, folder)


def test_names_of_a_submission_are_composed_as_tables_have_them(models, tmp_path):
    folder, model = make_clips(tmp_path / "clips", f"{DECOMPOSED}.wav"), str(models / "plain/model.tflite")
    pi.main(["submit", model, str(folder), str(tmp_path / "x.csv")])
    assert [row[0] for _, row in csv_rows(tmp_path / "x.csv")] == ["fname", "stöp.wav"]
    make_clips(folder, "stöp.wav")
    if len(list(folder.iterdir())) == 2:  # two clips stay two rows
        pi.main(["submit", model, str(folder), str(tmp_path / "x.csv")])
        assert len({row[0] for _, row in csv_rows(tmp_path / "x.csv")[1:]}) == 2


def test_labels_of_several_words_and_forms(own, tmp_path):
    labels = ["silence", "unknown", DECOMPOSED, "turn on", "a,b", 'say "x"', *LABELS[6:]]
    (own / "labels.txt").write_text("\n".join(labels), encoding="utf-8")
    folder = make_clips(tmp_path / "clips", "a.wav")
    cli.main(["predict", str(own / "model.tflite"), str(folder), str(tmp_path / "x.csv")])
    composed = [same_name(label) for label in labels]
    assert csv_rows(tmp_path / "x.csv")[1][1][1] in composed
    for number, label in enumerate(composed):
        write_submission([folder / "a.wav"], np.eye(12)[[number]], tmp_path / "x.csv", composed)
        check_submission(tmp_path / "x.csv", [folder / "a.wav"], composed)
        (tmp_path / "solution.csv").write_bytes(
            (tmp_path / "x.csv").read_bytes().replace(b"label\n", b"label,Usage\n").rstrip() + b",Private\n"
        )
        assert (
            score_submission(tmp_path / "x.csv", tmp_path / "solution.csv", composed).accuracy["all"] == 1
        ), label


def test_files_of_one_name_are_told_apart(models, tmp_path, capsys):
    make_clips(tmp_path, "one/a.wav", "two/a.wav")
    paths = [tmp_path / "one/a.wav", tmp_path / "two/a.wav"]
    pi.main(["label", str(models / "plain/model.tflite"), *map(str, paths)])
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == list(map(str, paths))


@pytest.fixture(scope="module")
def tags(tmp_path_factory):
    """Four clips of 16 kHz for a tagger, and the settings for them."""
    folder = make_clips(tmp_path_factory.mktemp("tags"), "a.wav", "b.wav", f"{DECOMPOSED}.wav", "d.wav")
    return folder, FrameSettings(16_000, high=8_000.0, hop=0.05, bands=16)


def test_labels_of_tags_are_the_same_with_spaces_and_accents(tags, tmp_path):
    folder, windows = tags
    rows = f'a.wav,"bark, meow"\n\nb.wav,{DECOMPOSED}\nstöp.wav,"stöp,bark,"\n'
    (tmp_path / "x.csv").write_text(f"fname,labels\n{rows}", encoding="utf-8")
    classes = class_list(tmp_path / "x.csv")
    assert classes == ["bark", "meow", "stöp"]
    clips = read_tags(tmp_path / "x.csv", folder, classes, windows)
    assert clips.labels.tolist() == [["bark", "meow"], ["stöp"], ["stöp", "bark"]] and len(clips) == 3
    assert Path(clips.path[2]).exists()
    for more, said in (
        ("c.wav,bark\n", "line 6: c.wav is not in"),
        ("a.wav,bark\n", "line 6: a.wav stands in line 2 already"),
        (f"{DECOMPOSED}.wav,bark\n", "line 6: .* stands in line 5 already"),
        ("d.wav\n", "line 6: d.wav has no labels"),
        ("d.wav,moo\n", "line 6: d.wav has the label 'moo', none of the 3 classes"),
    ):
        (tmp_path / "x.csv").write_text(f"fname,labels\n{rows}{more}", encoding="utf-8")
        with pytest.raises(CourseError, match=said):
            read_tags(tmp_path / "x.csv", folder, classes, windows)
    for header, said in (
        (f"fname,stöp,{DECOMPOSED}", "is the name of two classes"),
        ("fname,bark,bark", "more than one column bark"),
        ("fname,", "no classes"),
    ):
        (tmp_path / "sample.csv").write_text(f"{header}\n", encoding="utf-8")
        with pytest.raises(CourseError, match=said):
            class_list(tmp_path / "sample.csv")


def test_a_stopped_training_of_tags_belongs_to_its_start_and_its_recordings(tags, tmp_path, monkeypatch):
    monkeypatch.setattr(tagging, "MOBILENET", ((64, 2),))  # the first block suffices
    folder, windows = shutil.copytree(tags[0], tmp_path / "clips"), tags[1]
    (tmp_path / "x.csv").write_text("fname,labels\na.wav,bark\nb.wav,meow\n")
    clips = read_tags(tmp_path / "x.csv", folder, ["bark", "meow"], windows)
    options = {"windows": windows, "model": {"width": 0.05}, "batch_size": 2}

    def train(run, **more):
        return train_tags(tmp_path / run, clips, ["bark", "meow"], **{"epochs": 1} | options | more)

    for changed in ({"epochs": 0}, {"seed": -1}, {"batch_size": 0}, {"every": 0}):
        with pytest.raises(CourseError, match=f"{next(iter(changed))}=.*wanted"):
            train("first", **changed)
    start = train("first")
    path = train("next", start=start)
    assert train("next", start=start) == path
    whole = start.read_bytes()
    network = keras.models.load_model(start)
    network.set_weights([0 * weights for weights in network.get_weights()])
    network.save(start)
    with pytest.raises(CourseError, match="next has another training: start_digest is"):
        train("next", start=start)
    start.write_bytes(whole)
    write_wav(folder / "a.wav", tone(99))
    with pytest.raises(CourseError, match="next has another training: clips is"):
        train("next", start=start)


# answers that cells of the notebooks give


@pytest.mark.parametrize("end", ["\n\n\n", ""])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_submission_is_checked_as_it_is_scored(start, end, tmp_path):
    content = start + GOOD.replace("b.wav", "\r\nb.wav").rstrip() + end
    (tmp_path / "x.csv").write_bytes(content.encode())
    check_submission(tmp_path / "x.csv", ["a.wav", "b.wav"])
    (tmp_path / "x.csv").write_bytes(content.replace("no", "noo").encode())
    with pytest.raises(CourseError, match="line 4: noo is none of the labels"):
        check_submission(tmp_path / "x.csv", ["a.wav", "b.wav"])


def test_whose_clips_differ_is_told(tmp_path):
    solution, target = tmp_path / "solution.csv", tmp_path / "x.csv"
    for rows, more, said in (
        ("abc", "", f"{target}: must name each of the 3 clips of .* once, and no other; look for c.wav"),
        ("abc", "c.wav,no\nd.wav,no\n", f"{target}: must name each of the 3 clips of .*look for d.wav"),
        ("aba", "", f"{solution}: names a.wav more than once"),
    ):
        solution.write_text("fname,label,Usage\n" + "".join(f"{letter}.wav,yes,Private\n" for letter in rows))
        target.write_text(GOOD + more)
        with pytest.raises(CourseError, match=said):
            score_submission(target, solution)


def test_names_in_another_form_are_the_same_clip(tmp_path):
    folder = make_clips(tmp_path / "clips", f"{DECOMPOSED}.wav")
    write_submission(clips_to_predict(folder), np.eye(12)[[2]], tmp_path / "x.csv")
    assert csv_rows(tmp_path / "x.csv")[1][1] == ["stöp.wav", "yes"]
    for name in ("stöp", DECOMPOSED):
        (tmp_path / "x.csv").write_text(f"fname,label\n{name}.wav,yes\n", encoding="utf-8")
        check_submission(tmp_path / "x.csv", clips_to_predict(folder))
        (tmp_path / "solution.csv").write_text("fname,label,Usage\nstöp.wav,yes,Public\n", encoding="utf-8")
        assert score_submission(tmp_path / "x.csv", tmp_path / "solution.csv").accuracy["all"] == 1


def test_a_word_may_have_a_comma_in_quotes():
    assert parse_words('"a,b" c') == ("a,b", "c")
    assert parse_words('"a,b", turn on') == ("a,b", "turn on")


def test_a_word_that_differs_from_a_label_in_case_only_is_told(tmp_path):
    make_clips(tmp_path, "yes/a_0.wav", "Yes/b_0.wav")
    with pytest.raises(CourseError, match="Yes and the label yes differ in case only"):
        scan_corpus(tmp_path, ("yes",))


def test_held_out_words_are_found_in_any_form():
    clips = pd.DataFrame({"split": ["train"], "label": ["unknown"], "word": ["stöp"]})
    assert split.hold_out(clips, (DECOMPOSED,)).split.tolist() == ["held"]


@pytest.mark.parametrize("options", [{"epochs": float("nan")}, {"epochs": 1.5}, {"epochs": 1, "seed": 2**32}])
def test_settings_of_a_training_are_whole_numbers(options):
    with pytest.raises(CourseError, match="more is wanted"):
        runs.Options("linear", **options)


def test_a_training_belongs_to_what_is_in_its_teachers_and_its_start(tmp_path):
    place = split.Place.of(tmp_path, pd.DataFrame({"label": pd.Categorical([], LABELS)}))
    path = tmp_path / "teacher.keras"
    for options in (
        runs.Options("linear", 1, teachers=(path,)),
        runs.Options("linear", 1, start=path),
    ):
        path.write_text("one")
        before = options.settings(place)
        assert options.settings(place) == before
        path.write_text("two")
        assert options.settings(place) != before


def test_features_ask_for_the_same_keras():
    done = run_python("-c", "import kws.preprocess", KERAS_BACKEND="torch")
    assert b"KERAS_BACKEND=torch: the course needs Keras on TensorFlow" in done.stderr
