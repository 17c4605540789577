"""Notebook 5: the same model in every form, and pi.py."""

import ast
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kws.pi
from kws.deploy import contest_graph, for_tf14, freeze, load_graph, to_litert
from kws.models import ZOO, compile_model, stored_features, with_front_end
from kws.pi import load_litert, read_wav
from kws.preprocess import open_store
from kws.split import LABELS, CorpusError, read_clip

TOLERANCE = 1e-4  # of a probability


@pytest.fixture(scope="module", params=ZOO)
def model(request, work, manifest):
    """Each model of the zoo, trained for a moment so that its batch normalisation is not trivial."""
    keras.utils.set_random_seed(1)
    feature, build = ZOO[request.param]
    store = open_store(work, feature, manifest)
    body = compile_model(build(), steps=150)
    body.fit(
        *stored_features(store, manifest, (manifest.split == "train").to_numpy()),
        batch_size=64,
        epochs=30,
        verbose=0,
    )
    return with_front_end(body, feature, store.attrs["statistics"])


def test_all_forms_agree(model, clips, tmp_path):
    expected = model.predict(clips, verbose=0)
    assert expected.std(0).max() > 0.01, "a model that always says the same proves nothing"
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").predict(clips, verbose=0)
    assert np.array_equal(loaded, expected)
    frozen = freeze(model)
    (tmp_path / "frozen.pb").write_bytes(for_tf14(contest_graph(model)).SerializeToString())
    forms = {
        "frozen function": lambda clip: frozen(tf.constant(clip[None]))[0][0],
        "frozen graph": load_graph(tmp_path / "frozen.pb"),
        "LiteRT": load_litert(to_litert(frozen)),
    }
    for name, says in forms.items():
        np.testing.assert_allclose(
            np.stack([says(clip) for clip in clips]), expected, atol=TOLERANCE, err_msg=name
        )
    int8 = load_litert(to_litert(frozen, clips))
    assert np.abs(np.stack([int8(clip) for clip in clips]) - expected).mean() < 0.02
    assert (tmp_path / "frozen.pb").stat().st_size < 5_000_000


def test_contest_tensors(model, manifest):
    definition = for_tf14(contest_graph(model))
    assert definition.versions.producer == 24
    assert not any(
        node.op == "AddV2" or any(a.startswith("_") for a in node.attr) for node in definition.node
    )
    path = manifest.path[0]
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
        clip, rate, out = (
            graph.get_tensor_by_name(n)
            for n in ("decoded_sample_data:0", "decoded_sample_data:1", "labels_softmax:0")
        )
        assert (
            (clip.dtype, clip.shape) == (tf.float32, [16_000, 1])
            and rate.dtype == tf.int32
            and out.shape == [len(LABELS)]
        )
        with tf.compat.v1.Session() as session:
            by_samples = session.run(out, {clip: read_clip(path)[:, None], rate: 16_000})
            by_bytes = session.run(out, {"wav_data:0": Path(path).read_bytes()})
    np.testing.assert_allclose(by_samples, by_bytes, atol=1e-6)


def test_runs_in_the_genuine_tensorflow_14(model, clips, tf14, tmp_path):
    (tmp_path / "frozen.pb").write_bytes(for_tf14(contest_graph(model)).SerializeToString())
    np.save(tmp_path / "in.npy", clips)
    program = [
        sys.executable,
        Path(__file__).with_name("run_in_tf14.py"),
        tf14,
        "frozen.pb",
        "in.npy",
        "out.npy",
    ]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1.4.0"
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model.predict(clips, verbose=0), atol=TOLERANCE)


def test_an_operation_without_an_old_equal_is_named():
    with tf.Graph().as_default() as graph:
        tf.math.erfinv(tf.constant(0.5), name="culprit")
    with pytest.raises(CorpusError, match="culprit.*Erfinv"):
        for_tf14(graph.as_graph_def())


def test_not_a_graph(tmp_path):
    for content in (b"nonsense", tf.Graph().as_graph_def().SerializeToString()):
        (tmp_path / "x.pb").write_bytes(content)
        with pytest.raises(CorpusError, match="x.pb"):
            load_graph(tmp_path / "x.pb")


def test_pi_imports_nothing_of_the_course():
    allowed = {"argparse", "sys", "time", "wave", "pathlib", "numpy", "ai_edge_litert"}
    tree = ast.parse(Path(kws.pi.__file__).read_text())
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported <= allowed


def test_pi_alone_in_a_folder(model, manifest, tmp_path):
    """As on the Pi: the file, the model, the labels, and wavs, one of them bad."""
    (tmp_path / "pi.py").write_text(Path(kws.pi.__file__).read_text())
    (tmp_path / "model.tflite").write_bytes(to_litert(freeze(model)))
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    (tmp_path / "bad.wav").write_text("bad")
    wav = Path(manifest.path[0]).resolve()

    def pi(*args):
        return subprocess.run([sys.executable, "pi.py", *args], cwd=tmp_path, capture_output=True, text=True)

    labelled = pi("label", "model.tflite", str(wav), "bad.wav")
    best = LABELS[model.predict(read_clip(wav)[None], verbose=0).argmax()]
    assert (
        labelled.returncode == 0
        and f"{wav.name}: {best} " in labelled.stdout
        and "bad.wav: cannot be read" in labelled.stdout
    )
    assert "median" in pi("bench", "model.tflite", "--runs", "5").stdout
    missing = pi("bench", "gone.tflite")
    assert missing.returncode == 1 and "gone.tflite: there is no such file" in missing.stderr


def test_pi_reads_as_the_course_does(manifest):
    for path in manifest[manifest.speaker != ""].path[:20]:
        np.testing.assert_allclose(read_wav(path), read_clip(path), atol=1e-7)
