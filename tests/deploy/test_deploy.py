"""Notebook 5: the same model in every form, and pi.py."""

import ast
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
import pytest
import tensorflow as tf

import kws.pi
from kws.deploy import (
    TF14_OPS,
    bench_on,
    contest_graph,
    fold_batch_norm,
    for_tf14,
    freeze,
    load_graph,
    long_recording,
    run_in_tf14,
    streaming_accuracy,
    tensor_ranges,
    to_litert,
    write_frozen,
    write_kit,
)
from kws.models import FREEZABLE, ZOO, stored_features, with_front_end
from kws.pi import KeywordDetector, load_litert, read_wav, windows
from kws.preprocess import open_store, write_store
from kws.split import LABELS, CourseError, read_clip

SHARED = Path(__file__).resolve().parents[2] / "shared"

TOLERANCE = 1e-4  # of a probability


def build_model(name, manifest, folder):
    """A model of the zoo, untrained, but with batch normalisation that has seen clips."""
    keras.utils.set_random_seed(1)
    feature, build, _ = ZOO[name]
    store = write_store(folder / "features", feature, manifest)
    network = build(len(LABELS))
    features, _ = stored_features(store, manifest, np.arange(len(manifest)) < 60)
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0
    network(features, training=True)
    return with_front_end(network, feature, store.attrs["statistics"])


@pytest.fixture(scope="module", params=FREEZABLE)
def model(request, manifest, tmp_path_factory):
    """Each model that can be frozen."""
    return build_model(request.param, manifest, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def small(manifest, tmp_path_factory):
    """One of them."""
    return build_model("tc_resnet8", manifest, tmp_path_factory.getbasetemp())


def test_all_forms_agree(model, clips, tmp_path):
    expected = model.predict(clips, verbose=0)
    assert expected.std(0).max() > 0.001, "a model that always says the same proves nothing"
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


def test_runs_in_the_genuine_tensorflow_14(model, clips, tf14, tmp_path):
    write_frozen(model, tmp_path / "frozen.pb")
    says, about = run_in_tf14(tmp_path / "frozen.pb", clips, runs=3)
    assert about["version"] == "1.4.0" and len(about["ms"]) == 3 and about["peak MB"] > 10
    np.testing.assert_allclose(says, model.predict(clips, verbose=0), atol=TOLERANCE)


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


def test_the_list_of_operations_is_that_of_the_genuine_library(tf14):
    import tools.tf14_ops

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


def test_pi_imports_nothing_of_the_course():
    allowed = set(sys.stdlib_module_names) | {"numpy", "ai_edge_litert"}
    tree = ast.parse(Path(kws.pi.__file__).read_text())
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported <= allowed


def test_dynamic_range_and_ranges(small, clips):
    frozen = freeze(small)
    flat, dynamic = to_litert(frozen), to_litert(frozen, dynamic=True)
    assert len(dynamic) < len(flat)
    says = load_litert(dynamic)
    assert np.abs(np.stack([says(clip) for clip in clips]) - small.predict(clips, verbose=0)).mean() < 0.1
    ranges = tensor_ranges(flat, clips[:2])
    assert (
        ranges["front end"].any()
        and not ranges["front end"].all()
        and (ranges.largest >= ranges.typical).all()
    )


def test_spotter_averages_waits_and_is_not_fooled_by_one_window():
    yes, calm = np.array([0, 0, 1.0, 0]), np.array([1.0, 0, 0, 0])
    detector = KeywordDetector(
        ["silence", "unknown", "yes", "no"], threshold=0.7, window_ms=500, suppression_ms=1_500
    )
    said = {
        ms: detector.update(ms, yes if ms >= 1_000 and ms != 3_000 else calm) for ms in range(0, 4_000, 100)
    }
    times = [ms for ms, word in said.items() if word]
    assert times == [1_300, 2_800] and said[1_300] == ("yes", pytest.approx(0.8))
    detector = KeywordDetector(["silence", "unknown", "yes", "no"])
    assert not any(detector.update(ms, yes if ms == 1_000 else calm) for ms in range(0, 3_000, 100))


def test_windows_end_with_the_newest_chunk():
    chunks = [np.full(1_600, i, "float32") for i in range(12)]
    times, seconds = zip(*windows(chunks))
    assert times == tuple(100.0 * (i + 1) for i in range(12))
    assert all(second.shape == (16_000,) for second in seconds)
    assert seconds[0][-1] == 0 and seconds[0][0] == 0 and seconds[11][-1] == 11 and seconds[11][0] == 2


def test_streaming_accuracy():
    truth = [(1_000, "yes"), (4_000, "no"), (8_000, "go")]
    found = [(1_200, "yes"), (1_300, "yes"), (4_700, "up"), (6_000, "no")]
    assert streaming_accuracy(truth, found) == {
        "true": 3,
        "matched": 2,
        "correct": 1,
        "wrong": 1,
        "false alarms": 2,
    }
    assert streaming_accuracy([], []) == {
        "true": 0,
        "matched": 0,
        "correct": 0,
        "wrong": 0,
        "false alarms": 0,
    }


def test_a_long_recording_has_the_clips_where_it_says(clips):
    sound, middles = long_recording(clips[:3], np.zeros(100, "float32"), every_ms=4_000, seed=1)
    for number, (clip, middle) in enumerate(zip(clips, middles)):
        start = round((middle - 500) * 16)
        assert 4_000 * number <= middle - 500 and middle + 500 <= 4_000 * (number + 1)
        np.testing.assert_allclose(sound[start : start + 16_000], clip, atol=1e-6)


def test_pi_alone_in_a_folder(small, manifest, tmp_path):
    """As on the Pi: the file, the model, the labels, and wavs, one of them bad."""
    (tmp_path / "pi.py").write_text(Path(kws.pi.__file__).read_text())
    (tmp_path / "model.tflite").write_bytes(to_litert(freeze(small)))
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    (tmp_path / "bad.wav").write_text("bad")
    wav = Path(manifest.path[0]).resolve()

    def pi(*args):
        return subprocess.run([sys.executable, "pi.py", *args], cwd=tmp_path, capture_output=True, text=True)

    labelled = pi("label", "model.tflite", str(wav), "bad.wav")
    best = LABELS[small.predict(read_clip(wav)[None], verbose=0).argmax()]
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


@pytest.fixture
def kit(work, manifest, tmp_path):
    """A kit with a small model, as it is copied to a Pi."""
    shutil.copytree(work, tmp_path / "work")
    store = open_store(work, "log_mel", manifest)
    model = with_front_end(ZOO["linear"].build(), "log_mel", store.attrs["statistics"])
    (tmp_path / "work/model_int8.tflite").write_bytes(to_litert(freeze(model)))
    return write_kit(tmp_path / "work")


def pi(kit, *args, path=None):
    environment = os.environ | ({"PATH": str(path)} if path else {})
    program = [sys.executable, kit / "pi.py", *map(str, args)]
    return subprocess.run(program, capture_output=True, text=True, env=environment)


def test_kit(kit):
    assert {path.name for path in kit.iterdir()} == {
        "model.tflite",
        "labels.txt",
        "pi.py",
        "requirements.txt",
    }
    told = json.loads(pi(kit, "bench", kit / "model.tflite", "--runs", "5", "--json").stdout)
    assert len(told["ms"]) == 5 and told["peak MB"] > 10


def arecord(folder, text):
    folder.mkdir()
    (folder / "arecord").write_text(f"#!{sys.executable}\n{text}")
    (folder / "arecord").chmod(0o755)
    return folder


def test_listen(kit, manifest, tmp_path):
    """A stand-in for the microphone plays words; the threshold is so low that something is heard."""
    paths = [str(Path(path).resolve()) for path in manifest[manifest.speaker != ""].path[:5]]
    play = f"""
import sys, wave
for path in {paths!r}:
    sys.stdout.buffer.write(wave.open(path).readframes(16_000).ljust(32_000, bytes(1)))
"""
    heard = pi(
        kit, "listen", kit / "model.tflite", "--threshold", "0.05", path=arecord(tmp_path / "bin", play)
    )
    lines = heard.stdout.splitlines()
    assert lines and all(line.split()[1] == "s" and line.split()[2] in LABELS[2:] for line in lines), (
        heard.stderr
    )
    assert heard.returncode == 1 and "the microphone gives no more sound" in heard.stderr


def test_no_microphone(kit, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    missing = pi(kit, "listen", kit / "model.tflite", path=empty)
    assert missing.returncode == 1 and "arecord: there is no such program" in missing.stderr
    fails = arecord(
        tmp_path / "bin", "import sys\nsys.exit('arecord: main: audio open error: No such file or directory')"
    )
    broken = pi(kit, "listen", kit / "model.tflite", path=fails)
    assert broken.returncode == 1 and "audio open error" in broken.stderr and "Traceback" not in broken.stderr


def test_pi_submission_goes_on(kit, corpus, tmp_path):
    folder = tmp_path / "test"
    shutil.copytree(corpus / "test/audio", folder)
    (folder / "clip_bad.wav").write_text("bad")
    target = tmp_path / "submission.csv"
    done = pi(kit, "submit", kit / "model.tflite", folder, target)
    assert done.returncode == 0 and "clip_bad.wav: cannot be read" in done.stderr
    whole = target.read_text()
    lines = whole.splitlines()
    assert lines[0] == "fname,label" and [line.split(",")[0] for line in lines[1:]] == sorted(
        p.name for p in folder.iterdir()
    )
    assert {line.split(",")[1] for line in lines[1:]} <= set(LABELS) and "clip_bad.wav,silence" in lines
    target.unlink()
    target.with_suffix(".part").write_text("".join(f"{line}\n" for line in lines[:5]) + "clip_ha")
    assert pi(kit, "submit", kit / "model.tflite", folder, target).returncode == 0
    assert target.read_text() == whole and not target.with_suffix(".part").exists()
    (tmp_path / "nothing").mkdir()
    assert (
        "no wav files there" in pi(kit, "submit", kit / "model.tflite", tmp_path / "nothing", target).stderr
    )


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
