"""Notebook 5: the same model in every form, the genuine TensorFlow 1.4, the kit, a host."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import SHARED

import tools.tf14_ops
from kws.audio import read_clip
from kws.deploy import (
    bench_on,
    best_threshold,
    contest_graph,
    fold_batch_norm,
    for_tf14,
    freeze,
    load_graph,
    to_litert,
    with_audio_spectrogram,
    write_frozen,
    write_kit,
)
from kws.inference import long_recording
from kws.infra.files import CourseError
from kws.infra.graphs import tensor_ranges, without_unused
from kws.infra.tf14 import TF14_OPS, run_in_tf14
from kws.models import stored_features, with_front_end
from kws.pi import load_litert
from kws.preprocess import write_store
from kws.split import LABELS
from kws.zoo import FREEZABLE, ZOO

TOLERANCE = 1e-4  # of a probability
QUICK = (
    "linear",
    "ds_cnn_s",
    "tc_resnet8",
    "bc_resnet1",
    "winner_195",
)  # one of each kind that can be frozen


def build_model(name, place, folder):
    """A model of the zoo, untrained, but with batch normalisation that has seen clips."""
    keras.utils.set_random_seed(1)
    feature, build, _ = ZOO[name]
    store = write_store(place._replace(work=folder), feature)
    network = build(len(LABELS))
    features, _ = stored_features(store, place.manifest, np.arange(len(place.manifest)) < 60)
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0
    network(features, training=True)
    return with_front_end(network, feature, store.attrs["statistics"])


@pytest.fixture(scope="module")
def features(place, tmp_path_factory):
    """Folder of the stores of this file; those of all tests are there already."""
    folder = tmp_path_factory.mktemp("features")
    for store in place.work.glob("*.bc"):
        (folder / store.name).symlink_to(store)
    return folder


@pytest.fixture(
    scope="module",
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in FREEZABLE],
)
def model(request, place, features):
    """Each model that can be frozen."""
    return build_model(request.param, place, features)


@pytest.fixture(scope="module")
def small(place, features):
    """One of them."""
    return build_model("tc_resnet8", place, features)


@pytest.fixture(scope="module")
def expected(model, clips):
    """What the model itself says; test_zoo.py sees that it says the same once it was saved and loaded."""
    return model(clips).numpy()


def test_all_forms_agree(model, expected, clips, tmp_path):
    assert expected.std(0).max() > 0.001, "a model that always says the same proves nothing"
    frozen = freeze(model)
    (tmp_path / "rfft.pb").write_bytes(for_tf14(contest_graph(model)).SerializeToString())
    write_frozen(model, tmp_path / "frozen.pb")
    forms = {
        "frozen function": lambda clip: frozen(tf.constant(clip[None]))[0][0],
        "frozen graph with RFFT": load_graph(tmp_path / "rfft.pb"),
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


def test_contest_tensors(small, manifest):
    definition = for_tf14(contest_graph(small))
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


def test_runs_in_the_genuine_tensorflow_14(model, expected, clips, tf14, tmp_path):
    write_frozen(model, tmp_path / "frozen.pb")
    says, about = run_in_tf14(tmp_path / "frozen.pb", clips, runs=3)
    assert about["version"] == "1.4.0" and len(about["ms"]) == 3 and about["peak MB"] > 10
    np.testing.assert_allclose(says, expected, atol=TOLERANCE)


def test_batch_normalisation_is_folded(model, clips):
    _, front_end, network, _ = model.layers
    slim = fold_batch_norm(network)
    features = front_end(clips)
    np.testing.assert_allclose(slim(features), network(features), rtol=1e-3, atol=1e-4)
    norms = [
        sum("BatchNormalization" in type(layer).__name__ for layer in each.layers) for each in (network, slim)
    ]
    assert norms[1] == (network.name == "light_cnn"), (
        "only one that comes first, with nothing before it, may stay"
    )
    assert len(slim.layers) == len(network.layers) - norms[0] + norms[1]


def operations(graph):
    return {node.op for node in graph.node}


def test_the_power_spectrum_becomes_one_operation(small):
    graph = contest_graph(small)
    fast = with_audio_spectrogram(graph)
    assert "RFFT" in operations(graph) and "AudioSpectrogram" not in operations(graph)
    assert operations(fast) & {"RFFT", "ComplexAbs", "AudioSpectrogram"} == {"AudioSpectrogram"}
    assert len(fast.node) < len(graph.node)


def test_a_graph_without_a_power_spectrum_stays_as_it_is():
    network = keras.Sequential([keras.Input((16_000, 1)), keras.layers.Flatten(), keras.layers.Dense(12)])
    graph = contest_graph(with_front_end(network, "pcm", {"mean": [0.0], "std": [1.0]}))
    assert with_audio_spectrogram(graph) == without_unused(graph, "labels_softmax")


def test_the_list_of_operations_is_that_of_the_genuine_library(tf14):
    assert tools.tf14_ops.operations() == TF14_OPS


def test_peers_say_the_same_in_both_tensorflows(clips, tf14):
    peers = sorted((SHARED / "peers").glob("*.pb"))
    if not peers:
        pytest.skip("no peers beside the project")
    for path in peers:
        says = load_graph(path)
        np.testing.assert_allclose(
            run_in_tf14(path, clips[:10])[0], [says(clip) for clip in clips[:10]], atol=TOLERANCE
        )


def test_what_tensorflow_14_refuses_is_said(tf14, tmp_path):
    (tmp_path / "x.pb").write_bytes(b"nonsense")
    with pytest.raises(CourseError, match="x.pb: refused"):
        run_in_tf14(tmp_path / "x.pb", np.zeros((1, 16_000)))
    (tmp_path / "empty.pb").write_bytes(tf.Graph().as_graph_def().SerializeToString())
    with pytest.raises(CourseError, match="no operation decoded_sample_data"):
        run_in_tf14(tmp_path / "empty.pb", np.zeros((1, 16_000)))


def test_an_attribute_without_an_old_equal_is_named():
    with tf.Graph().as_default() as graph:
        tf.nn.conv2d(tf.zeros([1, 9, 9, 1]), tf.zeros([3, 3, 1, 1]), 1, "SAME", dilations=2, name="culprit")
        tf.raw_ops.Conv2D(
            input=tf.zeros([1, 9, 9, 1]),
            filter=tf.zeros([3, 3, 1, 1]),
            strides=[1] * 4,
            padding="SAME",
            dilations=[1, 2, 2, 1],
            name="guilty",
        )
    with pytest.raises(CourseError, match="culprit|guilty.*no attribute dilations"):
        for_tf14(graph.as_graph_def())


def test_too_large_for_the_contest(small, tmp_path):
    with pytest.raises(CourseError, match="big.pb: .* bytes, the contest wants fewer than 1,000"):
        write_frozen(small, tmp_path / "big.pb", limit=1_000)
    assert not (tmp_path / "big.pb").exists()


def test_an_operation_without_an_old_equal_is_named():
    with tf.Graph().as_default() as graph:
        tf.math.erfinv(tf.constant(0.5), name="culprit")
    with pytest.raises(CourseError, match="culprit.*no operation Erfinv"):
        for_tf14(graph.as_graph_def())


def test_not_a_graph(tmp_path):
    for content in (b"nonsense", tf.Graph().as_graph_def().SerializeToString()):
        (tmp_path / "x.pb").write_bytes(content)
        with pytest.raises(CourseError, match="x.pb"):
            load_graph(tmp_path / "x.pb")


def test_dynamic_range_and_ranges(small, clips):
    frozen = freeze(small)
    flat, dynamic = to_litert(frozen), to_litert(frozen, dynamic=True)
    assert len(dynamic) < len(flat)
    says = load_litert(dynamic)
    assert np.abs(np.stack([says(clip) for clip in clips]) - small(clips)).mean() < 0.1
    ranges = tensor_ranges(flat, clips[:2])
    assert (
        ranges["front end"].any()
        and not ranges["front end"].all()
        and (ranges.largest >= ranges.typical).all()
        and ranges.constant.any()
        and not ranges.constant.all()
    )


def test_a_long_recording_has_the_clips_where_it_says(clips):
    sound, middles = long_recording(clips[:3], np.zeros(100, "float32"), every_ms=4_000, seed=1)
    for number, (clip, middle) in enumerate(zip(clips, middles)):
        start = round((middle - 500) * 16)
        assert 4_000 * number <= middle - 500 and middle + 500 <= 4_000 * (number + 1)
        np.testing.assert_allclose(sound[start : start + 16_000], clip, atol=1e-6)


@pytest.fixture
def kit(tmp_path):
    """A kit, as it is copied to a Pi, of a model that says what is loud."""
    (tmp_path / "work").mkdir()
    kernel = tf.constant(np.random.default_rng(0).normal(0, 0.01, (16_000, 12)).astype("float32"))
    function = tf.function(lambda pcm: tf.nn.softmax(pcm @ kernel), autograph=False)
    frozen = function.get_concrete_function(tf.TensorSpec([1, 16_000]))
    (tmp_path / "work/model_int8.tflite").write_bytes(to_litert(frozen))
    (tmp_path / "work/labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    return write_kit(tmp_path / "work")


def test_kit(kit):
    names = {"model.tflite", "labels.txt", "pi.py", "requirements.txt"}
    assert {path.name for path in kit.iterdir()} == names
    program = [sys.executable, kit / "pi.py", "bench", kit / "model.tflite", "--runs", "5", "--json"]
    told = json.loads(subprocess.check_output(program))
    assert len(told["ms"]) == 5 and told["peak MB"] > 10


@pytest.fixture
def sshd(tmp_path):
    """A real ssh server on this machine, for this user: options for scp and ssh."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if not server or not shutil.which("ssh"):
        pytest.skip("no OpenSSH server on this machine")
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key], check=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    (tmp_path / "authorized").write_text((tmp_path / "user.pub").read_text())
    Path("/run/sshd").mkdir(exist_ok=True) if os.geteuid() == 0 else None
    settings = f"""
        ListenAddress 127.0.0.1:{port}
        HostKey {tmp_path}/host
        AuthorizedKeysFile {tmp_path}/authorized
        PidFile {tmp_path}/pid
        PermitRootLogin yes
        StrictModes no
        UsePAM no
        Subsystem sftp internal-sftp
    """
    (tmp_path / "settings").write_text(settings)
    process = subprocess.Popen([server, "-D", "-e", "-f", tmp_path / "settings"], stderr=subprocess.PIPE)
    for _ in range(100):
        with socket.socket() as tried:
            if not tried.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.05)
    options = (
        f"Port={port} BatchMode=yes StrictHostKeyChecking=no UserKnownHostsFile=/dev/null LogLevel=ERROR"
    )
    yield [f"-oIdentityFile={tmp_path}/user", *(f"-o{option}" for option in options.split())]
    process.terminate()
    process.wait()


def test_bench_on_a_host(kit, sshd, tmp_path):
    (tmp_path / "there").mkdir()
    told = bench_on("127.0.0.1", kit, tmp_path / "there", sys.executable, sshd)
    assert (tmp_path / "there/kit/pi.py").exists() and len(told["ms"]) == 200
    with pytest.raises(CourseError, match="127.0.0.1: ssh failed: .*nowhere"):
        bench_on("127.0.0.1", kit, tmp_path / "there", "nowhere/python", sshd)


def test_a_host_that_cannot_be_reached(kit):
    if not shutil.which("ssh"):
        pytest.skip("no OpenSSH on this machine")
    with pytest.raises(CourseError, match="127.0.0.1: scp failed"):
        bench_on("127.0.0.1", kit, options=("-oPort=9", "-oBatchMode=yes", "-oConnectTimeout=5"))


def test_best_threshold():
    curve = pd.DataFrame({"threshold": [0.3, 0.5, 0.7, 0.9], "correct share": [0.9, 0.8, 0.8, 0.1]})
    curve["false alarms per hour"] = [30.0, 9.0, 4.0, 0.0]
    assert best_threshold(curve) == 0.7 and best_threshold(curve, 50) == 0.3
    curve["false alarms per hour"] += 20  # all have too many: the one with the fewest
    assert best_threshold(curve) == 0.9
