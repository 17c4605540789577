"""Past one machine: features and predictions by the workers of a Dask cluster, two processes here, and one of them killed."""

import os
import signal
import socket
import sys
import threading

import keras
import numpy as np
import pytest
from robust.kill import tree

from kws.audio import CLIP_SAMPLES
from kws.inference import predict_clips, read_batches, test_clips
from kws.infra.cluster import connect
from kws.infra.files import CourseError
from kws.infra.store import make_store
from kws.preprocess import compute_rows, store_path, store_record, write_store

test_clips.__test__ = False  # a function of the course, not a test
distributed = pytest.importorskip("distributed")
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("cluster")]
full = pytest.mark.full


@pytest.fixture(scope="module")
def client():
    with connect("local") as client:
        yield client


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Path of a model that says something else of each clip."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((CLIP_SAMPLES,)), keras.layers.Rescaling(30), keras.layers.Dense(12, "softmax")]
    path = tmp_path_factory.mktemp("model") / "model.keras"
    keras.Sequential(layers).save(path)
    return path


def killing(function, mark, seconds):
    """A function that does the same, but kills its process some seconds after it has begun, once in all processes."""

    def kill():
        os.kill(os.getpid(), signal.SIGKILL)

    def act(*args):
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return function(*args)
        if not seconds:
            kill()
        threading.Timer(seconds, kill).start()
        return function(*args)

    return act


def compute_mfcc(rows):
    return compute_rows("mfcc", rows)


@full
def test_shards_of_two_processes_are_those_of_one(client, place, tmp_path):
    for feature in ("pcm", "log_mel"):
        alone, spread = (place._replace(work=tmp_path / name) for name in ("alone", "spread"))
        write_store(alone, feature, shard=32)
        store = write_store(spread, feature, shard=32, client=client)
        assert np.array_equal(store[:], compute_rows(feature, place.manifest))
    assert len(client.nthreads()) == 2
    assert tree(tmp_path / "alone") == tree(tmp_path / "spread")


@full
@pytest.mark.parametrize("seconds", [0, 0.02])
def test_features_though_a_worker_is_killed(client, place, tmp_path, cases, seconds):
    with cases("fault", "worker of a cluster killed"):
        alone, spread = (place._replace(work=tmp_path / name) for name in ("alone", "spread"))
        write_store(alone, "mfcc", shard=8)
        act = killing(compute_mfcc, tmp_path / "killed", seconds)
        path, record = store_path(spread, "mfcc"), store_record(spread, "mfcc")
        make_store(path, record, place.manifest, act, shard=8, client=client)
        assert (tmp_path / "killed").exists() and tree(alone.work) == tree(spread.work)


@full
@pytest.mark.parametrize("seconds", [0, 0.02])
def test_predictions_though_a_worker_is_killed(client, corpus, model, tmp_path, cases, seconds):
    with cases("fault", "worker of a cluster killed"):
        paths = test_clips(corpus)
        bad = tmp_path / "bad.wav"
        bad.write_text("bad")
        paths = [*paths[:5], bad, *paths[5:]]
        alone, unreadable = predict_clips(str(model), paths, tmp_path / "alone.npy", part=4)
        act = killing(read_batches, tmp_path / "killed", seconds)
        spread = predict_clips(model, paths, tmp_path / "spread.npy", part=4, client=client, batches=act)
        assert (tmp_path / "killed").exists() and unreadable == spread[1] == [str(bad)]
        np.testing.assert_allclose(spread[0], alone, atol=1e-6)
        assert not list(tmp_path.glob("*.parts"))


@full
def test_an_error_of_a_worker_is_told_here(client, place, small_disk):
    (folder, resize), count = small_disk, len(place.manifest)
    own = place._replace(work=folder)
    with pytest.raises(CourseError, match="the disk is full"):
        write_store(own, "log_mel", shard=16, client=client)
    resize(64)
    assert len(write_store(own, "log_mel", shard=16, client=client)) == count


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(CourseError, match="pip install -r req-scale.txt"):
        connect("local")


def test_no_scheduler():
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))  # nobody else gets this port, and nobody listens
        with pytest.raises(CourseError, match="no scheduler answers .* dask scheduler"):
            connect(f"tcp://127.0.0.1:{mute.getsockname()[1]}")
    with pytest.raises(CourseError, match="no scheduler answers"):
        connect("nonsense://x")
