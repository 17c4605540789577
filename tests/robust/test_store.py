"""Notebook 2: the store, with bcolz and with blosc2: what it holds, when it is refused, killed, on a full disk."""

import errno
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from kill_store import tree

from kws import preprocess
from kws.preprocess import compute_rows, open_array, open_store, read_rows, write_store
from kws.split import CourseError, make_manifest


@pytest.fixture(params=["bcolz", "blosc2"])
def library(request, monkeypatch):
    """Each test of the store runs with both."""
    if request.param == "blosc2":
        pytest.importorskip("blosc2")
    elif preprocess.bcolz is None:
        pytest.skip("bcolz is not installed")
    monkeypatch.setattr(preprocess, "LIBRARY", request.param)
    return request.param


@pytest.mark.parametrize("feature", ["pcm", "log_mel", "fft"])
def test_store_holds_what_was_computed(library, manifest, tmp_path, feature):
    store = write_store(tmp_path, feature, manifest, shard=96)
    assert store.attrs["written_by"] == library and "tensorflow" in dict(store.attrs)
    expected = compute_rows(feature, manifest)
    assert np.array_equal(store[:], expected) and store.dtype == expected.dtype
    rows = np.array([150, 3, 77, 3])
    opened = open_store(tmp_path, feature, manifest)
    assert np.array_equal(read_rows(opened, rows), expected[rows])
    assert np.array_equal(opened[[3, 77, 150]], expected[[3, 77, 150]])
    train = expected[manifest.split == "train"].astype("float64")
    train = train.reshape(-1, 1) / 32_768 if feature == "pcm" else train.reshape(-1, train.shape[-1])
    statistics = store.attrs["statistics"]
    np.testing.assert_allclose(statistics["mean"], train.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics["std"], train.std(0), rtol=1e-4)


def test_statistics_are_of_training_rows_only(library, manifest, tmp_path):
    held = manifest.assign(split=manifest.split.where(manifest.index % 2 == 0, "held"))
    store = write_store(tmp_path, "log_mel", held, shard=64)
    statistics = store.attrs["statistics"]
    train = compute_rows("log_mel", held[held.split == "train"]).reshape(-1, 40)
    np.testing.assert_allclose(statistics["mean"], train.mean(0), rtol=1e-4)


def test_interrupted_store_goes_on(library, manifest, tmp_path, monkeypatch):
    calls = []

    def interrupted(feature, rows):
        calls.append(len(rows))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compute_rows(feature, rows)

    monkeypatch.setattr(preprocess, "compute_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path, "log_mel", manifest, shard=64)
    with pytest.raises(CourseError, match="2_preprocess_augment.ipynb"):
        open_store(tmp_path, "log_mel", manifest)
    store = write_store(tmp_path, "log_mel", manifest, shard=64)
    assert sum(calls[4:]) == len(manifest) - 3 * 64, "rows that were there were computed again"
    assert np.array_equal(store[:], compute_rows("log_mel", manifest))
    assert [p.name for p in tmp_path.iterdir()] == ["log_mel.bc"]


def test_stale_store_is_refused_and_replaced(library, corpus, manifest, tmp_path, monkeypatch):
    write_store(tmp_path, "log_mel", manifest)
    other = make_manifest(corpus, tmp_path / "other", "sample", seed=1)
    with pytest.raises(CourseError, match="another manifest.*2_preprocess_augment.ipynb"):
        open_store(tmp_path, "log_mel", other)
    feature = preprocess.FEATURES["log_mel"]
    changed = feature._replace(parameters=feature.parameters | {"n_mels": 41})
    monkeypatch.setitem(preprocess.FEATURES, "log_mel", changed)
    with pytest.raises(CourseError, match="other parameters: n_mels is 40, wanted 41.*2_preprocess_augment"):
        open_store(tmp_path, "log_mel", manifest)
    monkeypatch.setitem(preprocess.FEATURES, "log_mel", feature)
    store = write_store(tmp_path, "log_mel", other)
    assert len(store) == len(other) and len(open_store(tmp_path, "log_mel", other)) == len(other)


def test_unfinished_shards_of_other_parameters_are_not_used(library, manifest, tmp_path, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(preprocess, "complete", stopped)
        write_store(tmp_path, "log_mel", manifest[::-1], shard=64)
    assert len(list((tmp_path / "log_mel.bc.new").glob("*.bc"))) > 2
    store = write_store(tmp_path, "log_mel", manifest, shard=64)
    assert np.array_equal(store[:], compute_rows("log_mel", manifest))


def test_a_folder_that_is_no_store(library, manifest, tmp_path):
    (tmp_path / "log_mel.bc").mkdir()
    (tmp_path / "log_mel.bc" / "chunks.b2frame").write_bytes(b"no")
    with pytest.raises(CourseError, match="not a store of this course"):
        open_store(tmp_path, "log_mel", manifest)
    assert len(write_store(tmp_path, "log_mel", manifest[:20])) == 20


def test_each_library_opens_what_it_wrote(library, manifest, tmp_path, monkeypatch):
    store = write_store(tmp_path, "pcm", manifest[:40])
    expected = store[:]
    monkeypatch.setattr(preprocess, "LIBRARY", "blosc2" if library == "bcolz" else "bcolz")
    assert np.array_equal(open_store(tmp_path, "pcm", manifest[:40])[:], expected)
    monkeypatch.setattr(preprocess, "bcolz", None)
    monkeypatch.setitem(sys.modules, "blosc2", None)
    with pytest.raises(CourseError, match=f"written by {library}, which is not installed"):
        open_array(tmp_path / "pcm.bc")
    with pytest.raises(CourseError, match=f"written by {library}, which is not installed"):
        open_store(tmp_path, "pcm", manifest[:40])


def test_a_copied_store_reads_the_same(library, manifest, tmp_path):
    """Nothing in a store depends on where it lies."""
    expected = write_store(tmp_path / "a", "pcm", manifest[:40])[:]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert np.array_equal(open_store(tmp_path / "b", "pcm", manifest[:40])[:], expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("feature, every", [("pcm", 4), ("log_mel", 40)])
def test_killed_at_any_moment(library, work, tmp_path, feature, every, cases):
    folder = tmp_path / "killed"
    folder.mkdir()
    command = [sys.executable, ROOT / "tests/kill_store.py", library, feature, every, work, folder]
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    operations, chosen, timed = map(int, re.findall(r"\d+", done.stdout))
    assert operations >= 25 and chosen >= operations // every and timed >= 3, done.stdout
    with cases("fault", "kill -9 while features are computed", chosen + timed):
        pass


@pytest.mark.parametrize("megabytes", [2, 3])
def test_full_disk(library, manifest, tmp_path, small_disk, megabytes):
    folder, resize = small_disk
    write_store(folder, "log_mel", manifest[:16])
    before = tree(folder)
    resize(megabytes)
    with pytest.raises(CourseError, match=r"disk is full. [\d,]+ bytes are free. Make room"):
        write_store(folder, "log_mel", manifest, shard=32)
    assert {name: content for name, content in tree(folder).items() if name in before} == before
    shards = list((folder / "log_mel.bc.new").glob("*.bc"))
    assert 0 < len(shards) < -(-len(manifest) // 32)
    resize(64)
    write_store(folder, "log_mel", manifest, shard=32)
    write_store(tmp_path / "elsewhere", "log_mel", manifest, shard=32)
    assert tree(folder) == tree(tmp_path / "elsewhere")


def test_full_disk_in_every_place(library, manifest, tmp_path, monkeypatch):
    write_store(tmp_path, "pcm", manifest[:16])
    before = tree(tmp_path)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("write_atomically", "create_array", "append_rows"):
        with monkeypatch.context() as patch, pytest.raises(CourseError, match="the disk is full"):
            patch.setattr(preprocess, place, full)
            write_store(tmp_path, "pcm", manifest, shard=64)
        assert before.items() <= tree(tmp_path).items()
    assert len(write_store(tmp_path, "pcm", manifest, shard=64)) == len(manifest)


def test_other_errors_stay_what_they_are(library, manifest, tmp_path, monkeypatch):
    def broken(number):
        def act(*args):
            raise OSError(number, "no", "x.bc")

        return act

    monkeypatch.setattr(preprocess, "write_atomically", broken(errno.EIO))
    with pytest.raises(OSError, match="no"):
        write_store(tmp_path, "pcm", manifest)
    monkeypatch.setattr(preprocess, "write_atomically", broken(errno.EACCES))
    with pytest.raises(CourseError, match="cannot be written .*no: .x.bc."):
        write_store(tmp_path, "pcm", manifest)


def test_a_damaged_shard_is_told(library, manifest, tmp_path):
    write_store(tmp_path, "pcm", manifest[:50], shard=32)
    files = [file for file in (tmp_path / "pcm.bc/000000032.bc").rglob("*") if file.stat().st_size > 20_000]
    content = bytearray(files[0].read_bytes())
    content[10_000] ^= 1
    files[0].write_bytes(content)
    store = open_store(tmp_path, "pcm", manifest[:50])
    assert np.array_equal(store[:32], compute_rows("pcm", manifest[:32]))
    with pytest.raises(CourseError, match="000000032.bc: damaged. Delete .*pcm.bc, and run 2_preprocess"):
        store[40:50]


def test_rows_across_shards(library, manifest, tmp_path):
    store = write_store(tmp_path, "pcm", manifest[:50], shard=16)
    whole = compute_rows("pcm", manifest[:50])
    picked = [slice(None), slice(3, 40), slice(16, 32), slice(20, 20), slice(-5, None), slice(0, 50, 7)]
    picked += [7, [49, 0, 16, 16], np.arange(50) % 2 == 0]
    for rows in picked:
        assert np.array_equal(store[rows], whole[rows])
    assert (len(store), store.nbytes, store.shape) == (50, whole.nbytes, whole.shape)
    shutil.rmtree(tmp_path / "pcm.bc/000000016.bc")
    with pytest.raises(CourseError, match="not a store of this course"):
        open_store(tmp_path, "pcm", manifest[:50])


def test_a_store_of_one_array_is_read_as_before(library, manifest, tmp_path):
    """Stores were a single array once, with all they say of themselves in its attrs."""
    whole = compute_rows("pcm", manifest[:50])
    array = preprocess.create_array(tmp_path / "pcm.bc", whole.shape[1:], whole.dtype, 50)
    preprocess.append_rows(array, whole)
    array.attrs["record"] = preprocess.store_record("pcm", manifest[:50])
    del array
    assert np.array_equal(open_store(tmp_path, "pcm", manifest[:50])[:], whole)
