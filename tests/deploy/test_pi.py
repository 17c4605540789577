"""pi.py: models and labels, wavs, words in a stream, the microphone, a submission; in this process, and alone in a folder."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from kws import pi
from kws.audio import read_clip, write_wav
from kws.pi import KeywordDetector, load_labels, load_litert, read_wav, sliding_windows, submit
from kws.split import LABELS

KERNEL = np.random.default_rng(0).normal(0, 0.3, (16_000, 12)).astype("float32")


def litert_of(function, *shapes, **options):
    """A function of tensors of some shapes as a LiteRT model: bytes."""
    signature = [tf.TensorSpec(shape) for shape in shapes]
    concrete = tf.function(function, autograph=False).get_concrete_function(*signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
    for name, value in options.items():
        setattr(converter, name, value)
    return converter.convert()


@pytest.fixture(scope="session")
def flatbuffer():
    """A model that says something else for each clip."""
    return litert_of(lambda pcm: tf.nn.softmax(pcm @ KERNEL), (1, 16_000))


@pytest.fixture
def kit(flatbuffer, tmp_path):
    """A folder as it is on a Pi: the file, the model and its labels."""
    folder = tmp_path / "kit"
    folder.mkdir()
    shutil.copy(pi.__file__, folder / "pi.py")
    (folder / "model.tflite").write_bytes(flatbuffer)
    (folder / "labels.txt").write_text("\n".join(LABELS))
    return folder


def best_label(path):
    return LABELS[(read_clip(path) @ KERNEL).argmax()]


def test_imports_nothing_of_the_course():
    allowed = set(sys.stdlib_module_names) | {"numpy", "ai_edge_litert"}
    tree = ast.parse(Path(pi.__file__).read_text(encoding="utf-8"))
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported <= allowed


def test_reads_as_the_course_does(manifest, tmp_path):
    for path in manifest[manifest.speaker != ""].path[:20]:
        np.testing.assert_allclose(read_wav(path), read_clip(path), atol=1e-7)
    write_wav(tmp_path / "x.wav", np.zeros(100), 44_100)
    with pytest.raises(ValueError, match=r"x.wav: 1 channel\(s\), 16 bits, 44100 Hz; wanted 1, 16, 16000"):
        read_wav(tmp_path / "x.wav")
    (tmp_path / "x.wav").write_text("x")
    with pytest.raises(ValueError, match="x.wav: cannot be read as wav"):
        read_wav(tmp_path / "x.wav")


def int8_features(path):
    """A model as other courses make them: int8 features of a second in, int8 labels out."""
    path.write_bytes(
        litert_of(
            lambda x: x @ KERNEL[:1_960, :4],
            (1, 1_960),
            optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=lambda: ([np.ones((1, 1_960), "float32")] for _ in range(2)),
            inference_input_type=tf.int8,
            inference_output_type=tf.int8,
        )
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (int8_features, "takes int8 [1, 1960], wanted float32 [1, 16000]"),
        (
            lambda path: path.write_bytes(litert_of(lambda a: a[:, :12], (8, 16_000))),
            "takes float32 [8, 16000], wanted",
        ),
        (
            lambda path: path.write_bytes(litert_of(lambda a, b: a + b, (1, 16_000), (1, 16_000))),
            "takes float32 [1, 16000] and float32 [1, 16000], wanted float32 [1, 16000]",
        ),
        (
            lambda path: path.write_bytes(litert_of(lambda a: tf.reshape(a, [1, 2, 8_000]), (1, 16_000))),
            "gives float32 [1, 2, 8000], wanted float32 [1, labels]",
        ),
        (
            lambda path: path.write_bytes(litert_of(lambda a: (a, -a), (1, 16_000))),
            "gives float32 [1, 16000] and float32",
        ),
        (lambda path: path.write_text("x"), "not a LiteRT model"),
        (lambda path: path.touch(), "not a LiteRT model"),
    ],
    ids=["int8", "batch of 8", "two inputs", "rank 3", "two outputs", "text", "empty"],
)
def test_models_of_other_shapes(make, said, tmp_path):
    path = tmp_path / "model.tflite"
    make(path)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {said}")):
        load_litert(path)
    if path.stat().st_size > 10:
        with pytest.raises(ValueError, match=re.escape(f"model: {said}")):
            load_litert(path.read_bytes())


def test_labels_must_fit(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffsilence\r\nunknown\r\ngrün\r\n".encode())
    assert load_labels(file, 3) == ["silence", "unknown", "grün"]
    with pytest.raises(ValueError, match="labels.txt: 3 names, the model has 12 outputs"):
        load_labels(file, 12)


def test_labels_that_are_none(tmp_path):
    file = tmp_path / "labels.txt"
    for content, said in (
        (b"a\nb\na\n", "a stands there more than once"),
        ("größe\nb\nc\n".encode("latin-1"), "not text in UTF-8"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"labels.txt: {said}"):
            load_labels(file, 3)
    file.write_text("\na \n\nb\nc\n\n")
    assert load_labels(file, 3) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda model: load_litert(model, 0), "threads=0: from 1"),
        (lambda model: load_litert(model, 100_000), "threads=100000: from 1"),
        (lambda model: pi.time_runs(int, 0), "runs=0: 1 or more"),
        (
            lambda model: KeywordDetector(["silence", "unknown"]),
            "silence, unknown and a command are the least",
        ),
        (lambda model: KeywordDetector(LABELS, threshold=1.1), "threshold=1.1"),
        (lambda model: KeywordDetector(LABELS, window_ms=0), "window_ms=0"),
        (lambda model: KeywordDetector(LABELS, suppression_ms=-1), "suppression_ms=-1"),
        (lambda model: next(pi.microphone(0)), "stride_ms=0: 1 or more"),
    ],
)
def test_numbers_out_of_range(flatbuffer, make, said):
    with pytest.raises(ValueError, match=said):
        make(flatbuffer)


def test_probabilities_that_are_no_numbers():
    model = litert_of(lambda pcm: tf.math.log(pcm[:, :12]), (1, 16_000))
    with pytest.raises(ValueError, match="model: gives -?(inf|nan) where a number is wanted"):
        load_litert(model)(np.zeros(16_000, "float32"))


def test_a_detector_averages_waits_and_is_not_fooled_by_one_window():
    names, yes, calm = ["silence", "unknown", "yes", "no"], np.array([0, 0, 1.0, 0]), np.array([1.0, 0, 0, 0])
    detector = KeywordDetector(names, threshold=0.7, window_ms=500, suppression_ms=1_500)
    said = {
        ms: detector.update(ms, yes if ms >= 1_000 and ms != 3_000 else calm) for ms in range(0, 4_000, 100)
    }
    times = [ms for ms, word in said.items() if word]
    assert times == [1_300, 2_800] and said[1_300] == ("yes", pytest.approx(0.8))
    detector = KeywordDetector(names)
    assert not any(detector.update(ms, yes if ms == 1_000 else calm) for ms in range(0, 3_000, 100))
    unknown = np.array([0, 1.0, 0, 0])
    assert not any(KeywordDetector(names).update(ms, unknown) for ms in range(0, 3_000, 100))


@pytest.mark.parametrize("threshold", [0.7, np.float64(0.7), np.float32(0.7)])
def test_thresholds_are_compared_in_one_type(threshold):
    """0.7 of float32 is a little less than 0.7: whatever the type of the threshold, it is detected or not alike."""
    just_below = np.array([0, 0.3, np.nextafter(np.float32(0.7), np.float32(0)), 0], "float32")
    assert KeywordDetector(["silence", "unknown", "yes", "no"], threshold).update(0, just_below) is None


def test_windows_end_with_the_newest_chunk():
    chunks = [np.full(1_600, i, "float32") for i in range(12)]
    times, seconds = zip(*sliding_windows(chunks))
    assert times == tuple(100.0 * (i + 1) for i in range(12))
    assert all(second.shape == (16_000,) for second in seconds)
    assert seconds[0][-1] == 0 and seconds[0][0] == 0 and seconds[11][-1] == 11 and seconds[11][0] == 2


def test_listening_prints_words_with_their_time(capsys):
    probabilities = np.eye(12)[[0] * 5 + [3] * 10]
    chunks = [np.full(1_600, number, "float32") for number in range(15)]
    pi.listen(lambda second: probabilities[int(second[-1])], LABELS, 0.7, chunks)
    assert capsys.readouterr().out == "     0.9 s  no 0.80\n"


def arecord(folder, text):
    """Put a stand-in for the microphone's program into a folder."""
    folder.mkdir()
    (folder / "arecord").write_text(f"#!{sys.executable}\nimport sys, time, wave\n{text}")
    (folder / "arecord").chmod(0o755)
    return str(folder)


def test_sound_of_the_microphone(manifest, tmp_path, monkeypatch):
    path = Path(manifest.path[0]).resolve()
    play = f"sys.stdout.buffer.write(wave.open({str(path)!r}).readframes(16_000).ljust(32_000, bytes(1)))\n"
    play += f"open({str(tmp_path / 'asked')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
    monkeypatch.setenv("PATH", arecord(tmp_path / "bin", play))
    chunks = []
    with pytest.raises(SystemExit, match="the microphone gives no more sound"):
        for chunk in pi.microphone(stride_ms=50, device="plughw:1,0"):
            chunks.append(chunk)
    assert [len(chunk) for chunk in chunks] == [800] * 20 and chunks[0].dtype == np.float32
    np.testing.assert_allclose(np.concatenate(chunks), read_clip(path), atol=1e-7)
    asked = (tmp_path / "asked").read_text()
    assert (
        "-r 16000" in asked and "-c 1" in asked and "-f S16_LE" in asked and asked.endswith("-D plughw:1,0")
    )


def test_a_microphone_of_another_rate_is_told(tmp_path, monkeypatch):
    warning = "Warning: rate is not accurate (requested = 16000Hz, got = 44100Hz)\\n"
    text = f"sys.stderr.write({warning!r})\nsys.stderr.flush()\nsys.stdout.buffer.write(bytes(32_000))\nsys.stdout.flush()\n"
    monkeypatch.setenv("PATH", arecord(tmp_path / "bin", f"{text}time.sleep(60)"))
    with pytest.raises(SystemExit, match="the microphone has no 16 kHz .*got = 44100Hz.*--device plughw:1,0"):
        for _ in pi.microphone():
            pass


def test_a_microphone_that_talks_much_is_not_blocked(tmp_path, monkeypatch):
    text = "for _ in range(3):\n    sys.stderr.write('x' * 70_000 + chr(10))\n    sys.stderr.flush()\n"
    monkeypatch.setenv("PATH", arecord(tmp_path / "bin", f"{text}sys.stdout.buffer.write(bytes(32_000))"))
    heard = pi.microphone()
    assert [len(next(heard)) for _ in range(10)] == [1_600] * 10
    with pytest.raises(SystemExit):
        next(heard)


def test_no_microphone(kit, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(SystemExit, match="arecord: there is no such program. Install it"):
        pi.main(["listen", str(kit / "model.tflite")])
    fails = "sys.exit('arecord: main: audio open error: No such file or directory')"
    monkeypatch.setenv("PATH", arecord(tmp_path / "bin", fails))
    with pytest.raises(
        SystemExit, match="the microphone gives no more sound. .*audio open error: No such file"
    ):
        pi.main(["listen", str(kit / "model.tflite")])


def run(kit, *arguments, path=None):
    program = [sys.executable, "pi.py", *map(str, arguments)]
    environment = os.environ | ({"PATH": path} if path else {})
    return subprocess.run(program, cwd=kit, capture_output=True, text=True, env=environment)


def test_alone_in_a_folder(kit, manifest, tmp_path):
    """As on the Pi, in a process of its own: every command, and a wav that is none."""
    wav = Path(manifest.path[0]).resolve()
    (kit / "bad.wav").write_text("bad")
    labelled = run(kit, "label", "model.tflite", wav, "bad.wav")
    assert labelled.returncode == 1 and "bad.wav: cannot be read as wav" in labelled.stderr
    (line,) = labelled.stdout.splitlines()
    assert f"{wav.name}: {best_label(wav)} " in line and line.count(",") == 2
    assert "median" in run(kit, "bench", "model.tflite", "--runs", "5").stdout
    told = json.loads(run(kit, "bench", "model.tflite", "--runs", "5", "--json", "--threads", "2").stdout)
    assert len(told["ms"]) == 5 and told["peak MB"] > 10
    paths = [str(Path(path).resolve()) for path in manifest[manifest.speaker != ""].path[:5]]
    play = f"""
for path in {paths!r}:
    sys.stdout.buffer.write(wave.open(path).readframes(16_000).ljust(32_000, bytes(1)))
"""
    microphone = arecord(tmp_path / "bin", play)
    heard = run(kit, "listen", "model.tflite", "--threshold", "0.05", path=microphone)
    lines = heard.stdout.splitlines()
    assert lines and all(line.split()[1] == "s" and line.split()[2] in LABELS[2:] for line in lines), (
        heard.stderr
    )
    assert heard.returncode == 1 and "the microphone gives no more sound" in heard.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("bench gone.tflite", "gone.tflite: there is no such file"),
        ("bench text.tflite", "text.tflite: not a LiteRT model"),
        ("submit model.tflite gone x.csv", "gone: there is no such folder"),
        ("submit model.tflite empty x.csv", "empty: no wav files there"),
        ("bench model.tflite --runs 0", "0: from 1 to"),
        ("bench model.tflite --threads 0", "0: from 1 to"),
        ("listen model.tflite --threshold 1.5", "1.5: from 0 to 1 is wanted"),
        ("label model.tflite", "wavs"),
        ("", "command"),
    ],
)
def test_bad_input(kit, arguments, said, monkeypatch, capsys):
    monkeypatch.chdir(kit)
    (kit / "text.tflite").write_text("text")
    (kit / "empty").mkdir()
    with pytest.raises(SystemExit) as stopped:
        pi.main(arguments.split())
    assert stopped.value.code and said in f"{stopped.value.code} {capsys.readouterr().err}"


def test_other_labels_beside_the_model(kit, monkeypatch):
    monkeypatch.chdir(kit)
    (kit / "labels.txt").write_text("silence\nunknown\nyes\n")
    with pytest.raises(SystemExit, match="labels.txt: 3 names, the model has 12 outputs"):
        pi.main(["bench", "model.tflite"])
    (kit / "labels.txt").unlink()
    with pytest.raises(SystemExit, match="labels.txt: there is no such file"):
        pi.main(["bench", "model.tflite"])


@pytest.fixture
def recordings(corpus, tmp_path):
    """Folder of 20 clips, one of them no wav, and what the model says of them as a csv."""
    folder = tmp_path / "test"
    folder.mkdir()
    for path in sorted(corpus.glob("test/audio/*.wav"))[:19]:
        shutil.copy(path, folder)
    (folder / "clip_bad.wav").write_text("bad")
    (folder / "._clip.wav").touch()
    names = sorted(path.name for path in folder.glob("clip*"))
    labels = ["silence" if name == "clip_bad.wav" else best_label(folder / name) for name in names]
    return folder, "".join(f"{a},{b}\n" for a, b in zip(("fname", *names), ("label", *labels)))


def test_submission(kit, recordings, tmp_path, capsys):
    folder, expected = recordings
    pi.main(["submit", str(kit / "model.tflite"), str(folder), str(tmp_path / "x.csv")])
    error = capsys.readouterr().err
    assert (tmp_path / "x.csv").read_text() == expected and len(set(expected.split())) > 4
    assert "clip_bad.wav: cannot be read as wav" in error and "20 of 20" in error
    assert not list(tmp_path.glob("*.part"))


class Stopped(BaseException):
    pass


def test_a_stopped_submission_goes_on_and_only_its_own(recordings, tmp_path):
    folder, expected = recordings
    target, asked = tmp_path / "x.csv", []

    def say(clip, stop_after=None):
        asked.append(1)
        if len(asked) == stop_after:
            raise Stopped
        return clip @ KERNEL

    def stopped(*model):
        asked.clear()
        with pytest.raises(Stopped):
            submit(lambda clip: say(clip, 8), LABELS, folder, target, *model)
        asked.clear()

    target.write_text("what was there before")
    stopped("one")
    assert target.read_text() == "what was there before"
    submit(say, LABELS, folder, target, "one")
    assert target.read_text() == expected and len(asked) == 19 - 7
    stopped("one")
    submit(say, LABELS, folder, target, "another model")
    assert target.read_text() == expected and len(asked) == 19
    stopped("one")
    submit(say, [label.upper() for label in LABELS], folder, target, "one")
    assert len(asked) == 19 and target.read_text().splitlines()[1].split(",")[1].isupper()
    stopped("one")
    first = sorted(folder.glob("clip*"))[0]
    shutil.copy(sorted(folder.glob("clip*"))[1], first)
    submit(say, LABELS, folder, target, "one")
    assert len(asked) == 19 and target.read_text().splitlines()[1] == f"{first.name},{best_label(first)}"
    stopped("one")
    (part,) = tmp_path.glob("*.part")
    part.write_text(part.read_text() + "yes")  # killed within a line
    submit(say, LABELS, folder, target, "one")
    assert len(asked) == 12 and target.read_text().splitlines()[2:] == expected.splitlines()[2:]
    assert [path.name for path in tmp_path.glob("x*")] == ["x.csv"]
