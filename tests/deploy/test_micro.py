"""The network for a microcontroller, by the kernels of TensorFlow Lite Micro and by a front end in C."""

import shutil
import subprocess

import numpy as np
import pytest

from kws import micro
from kws.infra.backend import keras
from kws.infra.files import CourseError
from kws.models import tc_resnet, with_front_end
from kws.preprocess import open_store
from tools import micro as tool

pytest.importorskip("tflite_micro", reason="tflite-micro has wheels for Linux on x86-64 only")


@pytest.fixture(scope="module")
def written(place, tmp_path_factory):
    """The folder for a network that has not been trained, and its figures."""
    work = tmp_path_factory.mktemp("work") / "work"
    shutil.copytree(place.work, work)
    statistics = open_store(place, "log_mel").attrs["statistics"]
    with_front_end(tc_resnet((24, 32), 16), "log_mel", statistics).save(work / "small.keras")
    return tool.write(work, "small.keras", clips=50)


def test_labels_are_those_of_keras_and_litert(written):
    folder, figures = written
    equal = figures["equal"]
    assert figures["n"] == 50 or figures["n"] > 10
    assert equal["TensorFlow Lite Micro, the same file"] >= 0.9 * figures["n"]
    assert figures["difference"] < 0.05 and 1_000 < figures["arena"] < 100_000
    text = (folder / "README.md").read_text()
    assert f"{figures['bytes']:,} bytes" in text and "CONV_2D" in text and "{" not in text


def test_the_arena_is_the_least(written):
    content = (written[0] / "model.tflite").read_bytes()
    arena = written[1]["arena"]
    micro.load_micro(content, arena)
    with pytest.raises(CourseError, match="TensorFlow Lite Micro cannot run this model: .*(arena|allocat)"):
        micro.load_micro(content, arena - 2 * micro.ALIGNMENT)


def test_the_array_is_the_file(written):
    text = (written[0] / "model.h").read_text()
    numbers = text.split("{")[1].split("}")[0].split(",")
    assert bytes(map(int, numbers)) == (written[0] / "model.tflite").read_bytes()


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a compiler of C")
def test_the_front_end_in_c(written, tmp_path):
    check = tmp_path / "check"
    command = ["cc", "-Wall", "-Werror", "-DKWS_CHECK", written[0] / "front_end.c", "-lm", "-o", check]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run([check], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("largest difference"), done.stdout


def test_a_front_end_inside_does_not_run_there(written):
    from kws.deploy import freeze, to_litert
    from kws.inference import load_clip_model

    work = written[0].parent
    content = to_litert(freeze(load_clip_model(work / "small.keras")))
    assert "RFFT2D" in micro.missing_operators(content) and "RFFT2D" in micro.operators(content)
    pcm = keras.Input((16_000,))
    keras.Model(pcm, keras.layers.Dense(12, activation="softmax")(pcm)).save(work / "other.keras")
    with pytest.raises(CourseError, match="no front end of its own"):
        micro.split_model(work / "other.keras")


def test_what_ends_a_process_is_said(monkeypatch):
    monkeypatch.setattr(micro, "TRY", "import os; os.abort()")
    assert micro.missing_operators(b"").startswith("nothing; the process ends")
    pcm = keras.Input((98, 40))
    with pytest.raises(CourseError, match="is a recurrent layer"):
        micro.to_micro(keras.Model(pcm, keras.layers.GRU(4)(pcm)), np.zeros((1, 98, 40)))


def test_arrays_of_c():
    assert "1.5f, 2.0f, 1e-06f" in micro.c_array("a", np.array([1.5, 2, 1e-6]), "float")
    assert micro.c_array("a", b"\x01\xff", "unsigned char") == "const unsigned char a[2] = {\n  1, 255};\n"
