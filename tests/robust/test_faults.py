"""What happens to people: kill -9, two runs at once, a full disk, a folder that is read-only, changed recordings, a clock that
jumps, notebooks out of order or restarted. Each must end well, or with one clear sentence, and lose nothing.

LONG=10 does ten times as many kills. `pytest -m slow tests/test_faults.py` restarts the kernel in the middle of each notebook.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from kill_store import tree

from kws import models, preprocess, split, submission, training, visualize
from kws.split import CourseError, make_manifest, manifest_hash, read_clip, read_manifest

LONG = int(os.environ.get("LONG", 1))
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")


def disturb(step, how, times, work, corpus, folder):
    """Run kill_step.py; returns how often it did what it does."""
    folder.mkdir()
    command = [sys.executable, ROOT / "tests/kill_step.py", step, how, times, 0, work, corpus, folder]
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return int(done.stdout)


@needs_fork
@pytest.mark.timeout(600 * LONG)
@pytest.mark.parametrize(
    ("step", "times"),
    [
        ("synthesis", 3),
        ("download", 6),
        ("manifest", 3),
        ("laying out", 3),
        ("training", 3),
        ("sweep", 6),
        ("prediction", 6),
    ],
)
def test_killed_at_random(step, times, work, corpus, tmp_path, cases):
    killed = disturb(step, "kill", times * LONG, work, corpus, tmp_path / "runs")
    assert killed >= times * LONG
    with cases("fault", f"kill -9: {step}", killed):
        pass


@needs_fork
@pytest.mark.timeout(600 * LONG)
@pytest.mark.parametrize("step", ["synthesis", "download", "manifest", "sweep", "prediction"])
def test_two_runs_at_once(step, work, corpus, tmp_path, cases):
    times = disturb(step, "twice", LONG, work, corpus, tmp_path / "runs")
    with cases("fault", "two runs at once", times):
        pass


def test_the_second_run_says_that_it_waits(tmp_path):
    program = (
        "import sys, time\nfrom kws.split import writing\n"
        "with writing(sys.argv[1]):\n    print('in', flush=True)\n    time.sleep(float(sys.argv[2]))\n"
    )

    def run(seconds):
        return subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / "x.csv", str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    with run(60) as first:
        assert first.stdout.readline() == "in\n"
        with run(0) as second:
            assert "x.csv: another run is writing it; this one waits" in second.stdout.readline()
            first.kill()
            assert second.stdout.readline() == "in\n" and second.wait() == 0
    assert not list(tmp_path.iterdir())


def predict(folder, work, corpus):
    paths = submission.test_clips(corpus)
    return submission.predict_clips(
        lambda clips: np.abs(clips[:, :12]) + 0.1, paths, folder / "p.npy", part=32
    )


def copy_of_stores(folder, work):
    """The stores of a working folder, in another one, as links."""
    for store in work.glob("*.bc"):
        if not (folder / store.name).exists():
            (folder / store.name).symlink_to(store)


def train(folder, work, corpus):
    return training.train(folder, corpus, read_manifest(work), "linear", 2)


STEPS = {
    "synthesis": lambda folder, work, corpus: split.make_synthetic(folder / "corpus", "smoke"),
    "manifest": lambda folder, work, corpus: make_manifest(corpus, folder / "work", "smoke"),
    "laying out": lambda folder, work, corpus: split.export_folders(
        read_manifest(work)[-90:], folder / "main"
    ),
    "descriptions": lambda folder, work, corpus: visualize.describe_corpus(read_manifest(work)[:200], folder),
    "features": lambda folder, work, corpus: preprocess.write_store(folder, "fft", read_manifest(work), 32),
    "sweep": lambda folder, work, corpus: models.cached_row(
        folder / "e.csv", {"model": "m"}, lambda: {"text": "x" * 100_000}
    ),
    "training": train,
    "prediction": predict,
    "results": lambda folder, work, corpus: training.record(folder, text="x" * 100_000),
}


def fill(ballast):
    """Write a file until the disk is full."""
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))


@pytest.mark.parametrize("step", STEPS)
def test_full_disk(step, work, corpus, tmp_path, small_disk, cases):
    folder, resize = small_disk
    if step == "training":
        copy_of_stores(folder, work)
    ballast = folder / "ballast"
    with cases("fault", "disk full"):
        with pytest.raises(CourseError, match="the disk is full. .* bytes are free. Make room"):
            fill(ballast)
            STEPS[step](folder, work, corpus)
        ballast.unlink()
        resize(64)
        STEPS[step](folder, work, corpus)
        left = [str(path) for path in folder.rglob("*.part")] + [*folder.rglob("*.unfinished")]
        assert not left, "something was left behind"


@pytest.mark.parametrize("step", STEPS)
def test_read_only_folder(step, work, corpus, tmp_path, small_disk, cases):
    folder, resize = small_disk
    resize(64)
    if step == "training":
        copy_of_stores(folder, work)
    with cases("fault", "read-only folder"):
        resize(64, "ro")
        with pytest.raises(CourseError, match="cannot be written .*Read-only file system") as raised:
            STEPS[step](folder, work, corpus)
        assert str(folder) in str(raised.value) and "\n" not in str(raised.value)
        resize(64, "rw")
        STEPS[step](folder, work, corpus)
        resize(64, "ro")
        STEPS[step](folder, work, corpus) if step not in ("results",) else None  # what is there is only read


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
    split.write_wav(path, np.clip(factor * clip, -1, 1))
    assert len(path.read_bytes()) == len(before)
    return before


@pytest.mark.parametrize("clock", ["right", "jumped back", "years ahead"])
def test_recordings_changed_under_a_finished_store(small_corpus, tmp_path, clock, cases):
    with cases("fault", "recordings changed under a finished store"):
        work = tmp_path / "work"
        first = make_manifest(small_corpus, work, words=("yes",))
        store = preprocess.write_store(work, "pcm", first)
        path = Path(first[first.word == "yes"].path.iloc[0])
        stamp = path.stat().st_mtime_ns
        louder(path, 0.5)
        ten_years = 10 * 365 * 86_400 * 10**9
        os.utime(
            path, ns=(stamp, {"jumped back": stamp, "years ahead": stamp + ten_years}.get(clock, stamp + 1))
        )
        again = make_manifest(small_corpus, work, words=("yes",))
        assert again.drop(columns="sample").equals(first.drop(columns="sample"))
        with pytest.raises(CourseError, match="made from another manifest.*2_preprocess_augment"):
            preprocess.open_store(work, "pcm", again)
        store = preprocess.write_store(work, "pcm", again)
        row = int(np.flatnonzero(again.path == path.as_posix())[0])
        assert np.array_equal(store[row], np.round(32_768 * read_clip(path)))
        assert manifest_hash(read_manifest(work)) == manifest_hash(again) != manifest_hash(first)


@pytest.mark.parametrize("years", [-40, 40])
def test_a_clock_that_jumps(small_corpus, tmp_path, years, cases):
    """Files that seem to be of another time are the same files: nothing is lost, and nothing made again that fits."""
    with cases("fault", "clock that jumps"):
        work, year = tmp_path / "work", 365 * 86_400
        first = make_manifest(small_corpus, work, words=("yes",))
        preprocess.write_store(work, "log_mel", first)
        paths = [Path(path) for path in first[first.speaker != ""].path]

        def predict(clips):
            return np.abs(clips[:, :12]) + 0.1

        said = submission.predict_clips(predict, paths, work / "p.npy")[0]
        before = tree(work / "log_mel.bc")
        for path in [*small_corpus.rglob("*"), *work.rglob("*")]:
            os.utime(path, (time.time() + years * year,) * 2)
        again = make_manifest(small_corpus, work, words=("yes",))
        assert manifest_hash(again) == manifest_hash(first)
        preprocess.write_store(work, "log_mel", again)
        assert tree(work / "log_mel.bc") == before
        # predictions are made again: clips of another time may be other clips
        assert np.array_equal(submission.predict_clips(predict, paths, work / "p.npy")[0], said)


CELLS = """
import os, sys
os.environ["MPLBACKEND"] = "Agg"
import nbformat
import kws.submission, kws.training, kws.visualize
for line in sys.stdin:
    if not (child := os.fork()):  # so that TensorFlow is loaded once
        names, said = {"__name__": "__main__"}, "ran through"
        for cell in nbformat.read(line.strip(), 4).cells:
            if cell.cell_type == "code":
                try:
                    exec(compile(cell.source, "cell", "exec"), names)
                except BaseException as error:
                    said = f"{type(error).__name__}: {error}"
                    break
        print("SAID", said.replace(chr(10), " "), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture
def run_cells(tmp_path):
    """Function (number of a notebook) -> what its first error says, of its cells, run one after the other in tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", CELLS],
        cwd=tmp_path,
        env=os.environ | {"PROFILE": "smoke", "CORPUS": "synthetic", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def run(name):
        print(next(ROOT.glob(f"{name}_*.ipynb")), file=process.stdin, flush=True)
        return next(line for line in process.stdout if line.startswith("SAID "))[5:].strip()

    with process:
        yield run
        process.stdin.close()


@needs_fork
@pytest.mark.timeout(600)
def test_notebooks_out_of_order(work, corpus, tmp_path, run_cells, cases):
    data = tmp_path / "data/synthetic-smoke"
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/synthetic-smoke").symlink_to(corpus)
    kind = "notebook started out of order"

    def expect(name, first, file):
        with cases("fault", kind):
            said = run_cells(name)
            assert said.startswith("CourseError: ") and first in said and file in said, said

    for name in "123456":
        expect(name, "0_split.ipynb", "data/synthetic-smoke/manifest.csv")
    data.mkdir()
    for file in ("manifest.csv", "labels.txt", "manifest.json"):
        shutil.copy(work / file, data)
    expect("4", "3_sample_experiments.ipynb", "data/synthetic-smoke/experiments.csv")
    kept = pd.DataFrame(
        [{"model": "linear", "accuracy": 0.5, "high": 0.6, "seconds": 1, "seed": 0}, {"model": "dnn"}]
    )
    kept.to_csv(data / "experiments.csv", index=False)
    expect("4", "2_preprocess_augment.ipynb", "data/synthetic-smoke/")
    for store in work.glob("*.bc"):
        shutil.copytree(store, data / store.name)
    expect("5", "4_full_training.ipynb", "data/synthetic-smoke/linear.keras")
    expect("6", "4_full_training.ipynb", "data/synthetic-smoke/linear.keras")
    train(data, work, corpus)
    expect("6", "5_freeze_and_pi.ipynb", "data/synthetic-smoke/frozen.pb")


def test_no_cell_runs_a_shell():
    """No command is a string that a shell takes apart, so nothing that is read can become one."""
    sources = {
        f"{path.name}, cell {number}": cell.source
        for path in sorted(ROOT.glob("[0-6]_*.ipynb"))
        for number, cell in enumerate(nbformat.read(path, 4).cells)
        if cell.cell_type == "code"
    }
    for path in [*ROOT.glob("tools/*.py"), *ROOT.glob("kws/*.py"), *ROOT.glob("benchmarks/*.py")]:
        sources[path.name] = path.read_text()
    words = (
        "shell=True",
        "os.system(",
        "os.popen(",
        "getoutput(",
        "get_ipython().system(",
        "eval(",
        "exec(",
        "pickle.",
        "import pickle",
    )
    for where, source in sources.items():
        for word in words:
            assert word not in source.replace("allow_pickle=False", ""), f"{where}: {word}"
        for line in source.splitlines():
            assert not line.lstrip().startswith(("!", "%")), f"{where}: {line}"


def child_of(process):
    """Process ids of the children of a process."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.timeout(7_200)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for the kernel in /proc")
def test_a_kernel_killed_in_the_middle_of_each_notebook(tmp_path, cases):
    from test_course import copy_course, run_course

    folders = [tmp_path / "alone", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
        copy_course(folder)
    alone, killed = folders
    assert run_course(alone).returncode == 0
    seconds = pd.read_json(alone / "data/synthetic-smoke/seconds.json", typ="series")
    numbers = random.Random(0)
    for notebook in sorted(killed.glob("[0-6]_*.ipynb")):
        with cases("fault", "kernel killed in the middle of a notebook"):
            course = subprocess.Popen(
                [sys.executable, "tools/course.py", notebook.name],
                cwd=killed,
                env=os.environ | {"PROFILE": "smoke", "CORPUS": "synthetic"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            time.sleep(numbers.uniform(0.3, 0.8) * seconds[notebook.stem])
            for kernel in child_of(course.pid):
                os.kill(kernel, 9)
            said = course.communicate()[1]
            assert course.returncode == 1 and "its kernel died" in said, said
            again = run_course(killed, notebook.name)
            assert again.returncode == 0, again.stderr[-2_000:]
    works = [folder / "data/synthetic-smoke" for folder in folders]
    for file in ("manifest.csv", "labels.txt", "submission.csv", "frozen.pb"):
        one, other = ((work / file).read_bytes() for work in works)
        assert one == other, file
    for store in works[0].glob("*.bc"):
        assert tree(store) == tree(works[1] / store.name), store
