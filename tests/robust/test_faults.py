"""What happens to people: kill -9, two runs at once, a full disk, a folder that is read-only, changed recordings, a clock that
jumps. Each must end well, or with one clear sentence, and lose nothing.

LONG=10 does ten times as many kills.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from robust.kill import STEPS, tree

from kws.audio import read_clip, write_wav
from kws.inference import predict_clips
from kws.infra.corpora import make_manifest
from kws.infra.files import CourseError
from kws.preprocess import open_store, write_store
from kws.split import manifest_hash, read_manifest

LONG = int(os.environ.get("LONG", 1))
full = pytest.mark.full
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")


def disturb(step, way, times, place, folder):
    """Run kill.py; returns how often it did what it does."""
    for library in ("bcolz", "blosc2"):
        if library in step and not importlib.util.find_spec(library):
            pytest.skip(f"{library} is not installed")
    for name in ("runs", "tmp"):
        (folder / name).mkdir()
    program = ROOT / "tests/robust/kill.py"
    command = [sys.executable, program, step, way, times * LONG, place.work, place.folder, folder / "runs"]
    done = subprocess.run(
        list(map(str, command)),
        # what a killed process leaves in the system's folder for temporary files goes with the test
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp"), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return int(done.stdout)


@needs_fork
@pytest.mark.timeout(600 * LONG)
@pytest.mark.parametrize(
    ("step", "way", "times"),
    [
        ("synthesis", "operations", 2),
        ("download", "random", 2),
        ("manifest", "operations", 3),
        ("export", "operations", 3),
        ("sweep", "operations", 3),
        ("prediction", "operations", 3),
        ("features", "operations", 8),
        *(
            pytest.param(*kills, marks=full)
            for kills in (
                ("synthesis", "random", 3),
                ("download", "operations", 4),
                ("manifest", "operations", 0),
                ("manifest", "random", 4),
                ("export", "random", 4),
                ("descriptions", "random", 4),
                ("sweep", "random", 6),
                ("results", "operations", 0),
                ("prediction", "random", 6),
                ("features, bcolz", "operations", 0),
                ("features, blosc2", "operations", 0),
                ("features, log_mel, bcolz", "random", 4),
                ("features, log_mel, blosc2", "random", 4),
                ("training", "random", 3),
                ("tagging", "random", 2),
            )
        ),
    ],
)
def test_killed(step, way, times, place, tmp_path, cases):
    killed = disturb(step, way, times, place, tmp_path)
    assert killed
    with cases("fault", f"kill -9: {step.partition(',')[0]}", killed):
        pass


QUICK_STEPS = ["manifest", "features", "sweep"]
OTHER_STEPS = [
    pytest.param(step, marks=full)
    for step in (
        "synthesis", "download", "export", "descriptions", "results", "prediction", "training", "tagging",
    )
]  # fmt: skip


@needs_fork
@pytest.mark.timeout(600 * LONG)
@pytest.mark.parametrize("step", ["manifest", "features", pytest.param("sweep", marks=full), *OTHER_STEPS])
def test_two_runs_at_once(step, place, tmp_path, cases):
    with cases("fault", "two runs at once", disturb(step, "twice", 1, place, tmp_path)):
        pass


def test_the_second_run_says_that_it_waits(tmp_path):
    program = (
        "import sys, time\nfrom kws.infra.files import exclusive_write\n"
        "with exclusive_write(sys.argv[1]):\n    print('in', flush=True)\n    time.sleep(float(sys.argv[2]))\n"
    )

    def run(seconds):
        return subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / "x.csv", str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    with run(600) as first:
        assert first.stdout.readline() == "in\n"
        with run(0) as second:
            assert "x.csv: another run is writing it; this one waits" in second.stdout.readline()
            first.kill()
            assert second.stdout.readline() == "in\n" and second.wait() == 0
    assert not list(tmp_path.iterdir())


# a disk that is full or may only be read


def fill(ballast):
    """Write a file until the disk is full; returns its size."""
    with open(ballast, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4_096))
        return file.tell()


@pytest.mark.parametrize("name", [*QUICK_STEPS, *OTHER_STEPS])
def test_full_disk(name, place, tmp_path, small_disk, cases):
    """The disk is full from the beginning, and when half of what the step leaves is written; then there is room."""
    (disk, resize), step = small_disk, STEPS[name]
    alone, folder, ballast = tmp_path / "alone", disk / "work", disk / "ballast"
    resize(64)
    alone.mkdir()
    folder.mkdir()
    step.start(alone, place)
    step.run(alone, place)
    needed = sum(p.stat().st_size for p in alone.rglob("*") if p.is_file() and not p.is_symlink())
    step.start(folder, place)
    before, size = tree(folder), fill(ballast)
    for room in (0, needed // 2):
        with cases("fault", "disk full"):
            os.truncate(ballast, size - room)
            told = "the disk is full. .* bytes are free. Make room|Make room there"
            with pytest.raises(CourseError, match=told):
                step.run(folder, place)
            step.check(folder, before, tree(alone))
    ballast.unlink()
    step.run(folder, place)
    assert step.result(folder) == step.result(alone)
    left = [path for way in (".part", ".old", ".trash") for path in folder.rglob(f"*{way}")]
    assert not left, "something was left behind"


@pytest.mark.parametrize("name", [*QUICK_STEPS, *OTHER_STEPS])
def test_read_only_folder(name, place, small_disk, cases):
    (folder, resize), step = small_disk, STEPS[name]
    resize(64)
    step.start(folder, place)
    with cases("fault", "read-only folder"):
        resize(64, "ro")
        with pytest.raises(CourseError, match="cannot be written .*Read-only file system") as raised:
            step.run(folder, place)
        assert str(folder) in str(raised.value) and "\n" not in str(raised.value)
        resize(64, "rw")
        step.run(folder, place)
        if name not in ("results", "tagging"):
            resize(64, "ro")
            step.run(folder, place)  # what is there is only read


def test_a_folder_without_permission(tmp_path, corpus, cases):
    if getattr(os, "getuid", int)() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "work").mkdir(mode=0o500)
    with cases("fault", "no permission"), pytest.raises(CourseError, match="cannot be written"):
        make_manifest(corpus, tmp_path / "work" / "deeper", "smoke")


def louder(path, factor):
    """Record a file anew: the same length, another sound. Returns its bytes of before."""
    before = path.read_bytes()
    clip = read_clip(path)[: (len(before) - 44) // 2]
    write_wav(path, np.clip(factor * clip, -1, 1))
    assert len(path.read_bytes()) == len(before)
    return before


@pytest.mark.parametrize(
    "clock", ["right", *(pytest.param(clock, marks=full) for clock in ("jumped back", "years ahead"))]
)
def test_recordings_changed_under_a_finished_store(small_corpus, tmp_path, clock, cases):
    with cases("fault", "recordings changed under a finished store"):
        work = tmp_path / "work"
        first = make_manifest(small_corpus, work, words=("yes",))
        write_store(first, "pcm")
        path = Path(first.manifest[first.manifest.word == "yes"].path.iloc[0])
        stamp = path.stat().st_mtime_ns
        louder(path, 0.5)
        ten_years = 10 * 365 * 86_400 * 10**9
        os.utime(
            path, ns=(stamp, {"jumped back": stamp, "years ahead": stamp + ten_years}.get(clock, stamp + 1))
        )
        again = make_manifest(small_corpus, work, words=("yes",))
        assert again.manifest.drop(columns="sample").equals(first.manifest.drop(columns="sample"))
        with pytest.raises(CourseError, match="made from another manifest.*2_preprocess_augment"):
            open_store(again, "pcm")
        store = write_store(again, "pcm")
        row = int(np.flatnonzero(again.manifest.path == path.as_posix())[0])
        assert np.array_equal(store[row], np.round(32_768 * read_clip(path)))
        assert manifest_hash(read_manifest(work)) == again.fingerprint != first.fingerprint


@full
@pytest.mark.parametrize("years", [-40, 40])
def test_a_clock_that_jumps(small_corpus, tmp_path, years, cases):
    """Files that seem to be of another time are the same files: nothing is lost, and nothing made again that fits."""
    with cases("fault", "clock that jumps"):
        work, year = tmp_path / "work", 365 * 86_400
        first = make_manifest(small_corpus, work, words=("yes",))
        write_store(first, "log_mel")
        paths = [Path(path) for path in first.manifest[first.manifest.speaker != ""].path]

        def predict(clips):
            return np.abs(clips[:, :12]) + 0.1

        said = predict_clips(predict, paths, work / "p.npy")[0]
        before = tree(work / "log_mel.bc")
        for path in [*small_corpus.rglob("*"), *work.rglob("*")]:
            os.utime(path, (time.time() + years * year,) * 2)
        again = make_manifest(small_corpus, work, words=("yes",))
        assert again.fingerprint == first.fingerprint
        write_store(again, "log_mel")
        assert tree(work / "log_mel.bc") == before
        # predictions are made again: clips of another time may be other clips
        assert np.array_equal(predict_clips(predict, paths, work / "p.npy")[0], said)
