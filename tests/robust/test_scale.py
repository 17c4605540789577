"""Past one machine: features and predictions by the workers of a Dask cluster, two processes here, and one of them killed."""

import os
import signal
import sys
import threading
import time

import keras
import numpy as np
import pytest
from kill_store import tree

from kws import preprocess
from kws.split import CLIP_SAMPLES, CourseError
from kws.submission import predict_clips, test_clips

test_clips.__test__ = False  # a function of the course, not a test
distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def client():
    with preprocess.connect("local") as client:
        yield client


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Path of a model that says something else of each clip."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((CLIP_SAMPLES,)), keras.layers.Rescaling(30), keras.layers.Dense(12, "softmax")]
    path = tmp_path_factory.mktemp("model") / "model.keras"
    keras.Sequential(layers).save(path)
    return path


def kill_one(client, folder, pattern):
    """Kill a worker when the first parts are done; returns the thread that does it, and what it killed."""
    processes, killed = list(client.run(os.getpid).values()), []

    def wait_and_kill():
        while not list(folder.glob(pattern)):
            time.sleep(0.002)
        os.kill(processes[0], signal.SIGKILL)
        killed.append(processes[0])

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread, killed


def test_shards_of_two_processes_are_those_of_one(client, manifest, tmp_path):
    for feature in ("pcm", "log_mel"):
        preprocess.write_store(tmp_path / "alone", feature, manifest, shard=32)
        store = preprocess.write_store(tmp_path / "spread", feature, manifest, shard=32, client=client)
        assert np.array_equal(store[:], preprocess.compute_rows(feature, manifest))
    assert len(client.nthreads()) == 2
    assert tree(tmp_path / "alone") == tree(tmp_path / "spread")


@pytest.mark.parametrize("shard", [8, 32])
def test_features_though_a_worker_is_killed(client, manifest, tmp_path, cases, shard):
    with cases("fault", "worker of a cluster killed"):
        preprocess.write_store(tmp_path / "alone", "mfcc", manifest, shard=shard)
        thread, killed = kill_one(client, tmp_path / "spread/mfcc.bc.new", "*.bc")
        preprocess.write_store(tmp_path / "spread", "mfcc", manifest, shard=shard, client=client)
        thread.join(5)
        assert killed and tree(tmp_path / "alone") == tree(tmp_path / "spread")


@pytest.mark.parametrize("part", [4, 16])
def test_predictions_though_a_worker_is_killed(client, corpus, model, tmp_path, cases, part):
    with cases("fault", "worker of a cluster killed"):
        paths = test_clips(corpus)
        bad = tmp_path / "bad.wav"
        bad.write_text("bad")
        paths = [*paths[:5], bad, *paths[5:]]
        alone, unreadable = predict_clips(str(model), paths, tmp_path / "alone.npy", part=part)
        thread, killed = kill_one(client, tmp_path / "spread.parts", "*.npy")
        spread = predict_clips(model, paths, tmp_path / "spread.npy", part=part, client=client)
        thread.join(5)
        assert killed and unreadable == spread[1] == [str(bad)]
        np.testing.assert_allclose(spread[0], alone, atol=1e-6)
        assert not list(tmp_path.glob("*.parts"))


def test_an_error_of_a_worker_is_told_here(client, manifest, tmp_path, small_disk):
    folder, resize = small_disk
    with pytest.raises(CourseError, match="the disk is full"):
        preprocess.write_store(folder, "log_mel", manifest, shard=16, client=client)
    resize(64)
    assert len(preprocess.write_store(folder, "log_mel", manifest, shard=16, client=client)) == len(manifest)


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(CourseError, match="pip install -r req-scale.txt"):
        preprocess.connect("local")


def test_no_scheduler():
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        with pytest.raises(CourseError, match="no scheduler answers .* dask scheduler"):
            preprocess.connect("tcp://127.0.0.1:9")
    with pytest.raises(CourseError, match="no scheduler answers"):
        preprocess.connect("nonsense://x")
