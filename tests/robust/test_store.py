"""The store of features: what it holds, when it is refused, stopped, damaged; by the library that is installed, and one test for
each of the two. Kills and full disks of all steps: test_faults.py.
"""

import errno
import shutil
import sys

import numpy as np
import pytest
from robust.kill import some_rows, tree

from kws import preprocess
from kws.infra import features
from kws.infra import store as store_module
from kws.infra.corpora import make_manifest
from kws.infra.files import CourseError
from kws.infra.store import LIBRARY, append_rows, create_array, open_array, read_rows
from kws.preprocess import compute_rows, open_store, store_path, store_record, write_store
from kws.split import Place


@pytest.fixture
def own(place, tmp_path):
    """The Place of the synthetic corpus, with a working folder of this test."""
    return place._replace(work=tmp_path / "work")


@pytest.fixture
def few(place, tmp_path):
    """The same, of fifty rows."""
    return Place.of(tmp_path / "work", place.manifest[:50], place.folder)


@pytest.mark.parametrize("feature", ["pcm", "log_mel", "fft"])
def test_store_holds_what_was_computed(own, feature):
    store = write_store(own, feature, shard=96)
    assert store.attrs["written_by"] == LIBRARY and "tensorflow" in dict(store.attrs)
    expected = compute_rows(feature, own.manifest)
    assert np.array_equal(store[:], expected) and store.dtype == expected.dtype
    rows = np.array([150, 3, 77, 3])
    opened = open_store(own, feature)
    assert np.array_equal(read_rows(opened, rows), expected[rows])
    assert np.array_equal(opened[[3, 77, 150]], expected[[3, 77, 150]])
    train = expected[own.manifest.split == "train"].astype("float64")
    train = train.reshape(-1, 1) / 32_768 if feature == "pcm" else train.reshape(-1, train.shape[-1])
    statistics = store.attrs["statistics"]
    np.testing.assert_allclose(statistics["mean"], train.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics["std"], train.std(0), rtol=1e-4)


@pytest.mark.parametrize("library", ["bcolz", "blosc2"])
def test_each_library_opens_what_it_wrote(few, monkeypatch, library):
    pytest.importorskip(library)
    store, expected = write_store(few, "pcm", shard=32, library=library), compute_rows("pcm", few.manifest)
    assert store.attrs["written_by"] == library and np.array_equal(store[:], expected)
    monkeypatch.setattr(store_module, "LIBRARY", "blosc2" if library == "bcolz" else "bcolz")
    assert np.array_equal(open_store(few, "pcm")[20:40], expected[20:40])
    monkeypatch.setattr(store_module, "bcolz", None)
    monkeypatch.setitem(sys.modules, "blosc2", None)
    with pytest.raises(CourseError, match=f"written by {library}, which is not installed"):
        open_array(store_path(few, "pcm"))
    with pytest.raises(CourseError, match=f"written by {library}, which is not installed"):
        open_store(few, "pcm")


def test_statistics_are_of_training_rows_only(own):
    held = own.manifest.assign(split=own.manifest.split.where(own.manifest.index % 2 == 0, "held"))
    store = write_store(Place.of(own.work, held), "log_mel", shard=64)
    train = compute_rows("log_mel", held[held.split == "train"]).reshape(-1, 40)
    np.testing.assert_allclose(store.attrs["statistics"]["mean"], train.mean(0), rtol=1e-4)


def test_interrupted_store_goes_on(own, monkeypatch):
    calls, compute = [], features._compute_rows

    def interrupted(feature, function, rows, *piece):
        calls.append(len(rows))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compute(feature, function, rows, *piece)

    monkeypatch.setattr(features, "_compute_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_store(own, "log_mel", shard=64)
    with pytest.raises(CourseError, match="2_preprocess_augment.ipynb"):
        open_store(own, "log_mel")
    store = write_store(own, "log_mel", shard=64)
    assert sum(calls[4:]) == len(own.manifest) - 3 * 64, "rows that were there were computed again"
    assert np.array_equal(store[:], compute_rows("log_mel", own.manifest))
    assert [p.name for p in own.work.iterdir()] == ["log_mel.bc"]


def test_stale_store_is_refused_and_replaced(own, tmp_path, monkeypatch):
    write_store(own, "log_mel")
    other = make_manifest(own.folder, tmp_path / "other", "sample", seed=1)._replace(work=own.work)
    with pytest.raises(CourseError, match="another manifest.*2_preprocess_augment.ipynb"):
        open_store(other, "log_mel")
    feature = preprocess.FEATURES["log_mel"]
    changed = feature._replace(parameters=feature.parameters | {"n_mels": 41})
    monkeypatch.setitem(preprocess.FEATURES, "log_mel", changed)
    with pytest.raises(CourseError, match="other parameters: n_mels is 40, wanted 41.*2_preprocess_augment"):
        open_store(own, "log_mel")
    monkeypatch.setitem(preprocess.FEATURES, "log_mel", feature)
    assert len(write_store(other, "log_mel")) == len(other.manifest) == len(open_store(other, "log_mel"))


def test_unfinished_shards_of_other_parameters_are_not_used(own, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store_module, "_complete", stopped)
        write_store(Place.of(own.work, own.manifest[::-1]), "log_mel", shard=64)
    assert len(list((own.work / "log_mel.bc.part").glob("*.bc"))) > 2
    store = write_store(own, "log_mel", shard=64)
    assert np.array_equal(store[:], compute_rows("log_mel", own.manifest))


def test_a_folder_that_is_no_store(few):
    store_path(few, "log_mel").mkdir(parents=True)
    (store_path(few, "log_mel") / "chunks.b2frame").write_bytes(b"no")
    with pytest.raises(CourseError, match="not a store of this course"):
        open_store(few, "log_mel")
    assert len(write_store(few, "log_mel")) == 50


def test_a_copied_store_reads_the_same(few, tmp_path):
    """Nothing in a store depends on where it lies."""
    expected = write_store(few, "pcm")[:]
    shutil.copytree(few.work, tmp_path / "copy")
    assert np.array_equal(open_store(few._replace(work=tmp_path / "copy"), "pcm")[:], expected)


def test_a_full_disk_leaves_the_old_store(own, monkeypatch):
    """Wherever it is noticed; test_faults.py has a disk that is really full."""
    write_store(some_rows(own.work, own), "pcm")
    before = tree(own.work)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("write_json", "create_array", "append_rows"):
        with monkeypatch.context() as patch, pytest.raises(CourseError, match="the disk is full"):
            patch.setattr(store_module, name, full)
            write_store(own, "pcm", shard=64)
        assert before.items() <= tree(own.work).items()
    assert len(write_store(own, "pcm", shard=64)) == len(own.manifest)


def test_other_errors_stay_what_they_are(few, monkeypatch):
    def broken(number):
        def act(*args):
            raise OSError(number, "no", "x.bc")

        return act

    monkeypatch.setattr(store_module, "write_json", broken(errno.EIO))
    with pytest.raises(OSError, match="no"):
        write_store(few, "pcm")
    monkeypatch.setattr(store_module, "write_json", broken(errno.EACCES))
    with pytest.raises(CourseError, match="cannot be written .*no: .x.bc."):
        write_store(few, "pcm")


def test_a_damaged_shard_is_told(few):
    write_store(few, "pcm", shard=32)
    files = [p for p in (few.work / "pcm.bc/000000032.bc").rglob("*") if p.stat().st_size > 20_000]
    content = bytearray(files[0].read_bytes())
    content[10_000] ^= 1
    files[0].write_bytes(content)
    store = open_store(few, "pcm")
    assert np.array_equal(store[:32], compute_rows("pcm", few.manifest[:32]))
    with pytest.raises(CourseError, match="000000032.bc: damaged. Delete .*pcm.bc, and run 2_preprocess"):
        store[40:50]


def test_rows_across_shards(few):
    store = write_store(few, "pcm", shard=16)
    whole = compute_rows("pcm", few.manifest)
    picked = [slice(None), slice(3, 40), slice(16, 32), slice(20, 20), slice(-5, None), slice(0, 50, 7)]
    picked += [7, [49, 0, 16, 16], np.arange(50) % 2 == 0]
    for rows in picked:
        assert np.array_equal(store[rows], whole[rows])
    assert (len(store), store.nbytes, store.shape) == (50, whole.nbytes, whole.shape)
    shutil.rmtree(few.work / "pcm.bc/000000016.bc")
    with pytest.raises(CourseError, match="not a store of this course"):
        open_store(few, "pcm")


def test_a_store_of_one_array_is_read_as_before(few):
    """Stores were a single array once, with all they say of themselves in its attrs."""
    whole = compute_rows("pcm", few.manifest)
    few.work.mkdir()
    array = create_array(store_path(few, "pcm"), whole.shape[1:], whole.dtype, 50)
    append_rows(array, whole)
    array.attrs["record"] = store_record(few, "pcm")
    del array
    assert np.array_equal(open_store(few, "pcm")[:], whole)
