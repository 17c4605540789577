"""Small corpora and stores, made once in a temporary folder; real speech where it lies beside the project.

With pytest-xdist all workers share the synthetic corpus and what is made from it.
"""

import contextlib
import csv
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

from kws.audio import read_clip, write_wav
from kws.infra.corpora import make_manifest
from kws.infra.files import CourseError
from kws.infra.synthetic import load_espeak, make_noises, make_synthetic, make_voices, utter

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


CASES = {}


class Cases:
    """Counts, for TESTING.md, how many cases of a kind of fault or input were tried, and how many survived."""

    @contextlib.contextmanager
    def __call__(self, group, kind, count=1):
        tried_survived = CASES.setdefault((group, kind), [0, 0])
        tried_survived[0] += count
        try:
            yield
            tried_survived[1] += count
        except Exception:
            raise
        except BaseException:  # hypothesis gives up making this case
            tried_survived[0] -= count
            raise


@pytest.fixture(scope="session")
def cases():
    """`with cases("fault", "disk full"): …` counts a case; it survived if nothing in it fails."""
    return Cases()


def pytest_configure(config):
    if not config.pluginmanager.hasplugin("xdist"):
        config.addinivalue_line("markers", "xdist_group(name): tests for one worker of pytest-xdist")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Add the counts of a worker of pytest-xdist, which has ended, to those here."""
    for group, kind, tried, survived in getattr(node, "workeroutput", {}).get("cases", []):
        counts = CASES.setdefault((group, kind), [0, 0])
        counts[0] += tried
        counts[1] += survived


def pytest_sessionfinish(session):
    """Write the counts to the csv file that the environment variable CASES names, if it does; other rows there stay."""
    if hasattr(session.config, "workeroutput"):  # a worker of pytest-xdist: the controller writes
        session.config.workeroutput["cases"] = [[*key, *counts] for key, counts in CASES.items()]
        return
    file = os.environ.get("CASES")
    if not file or not CASES:
        return
    from kws.infra.experiments import circumstances

    path, now = Path(file), circumstances()
    rows = {}
    if path.exists():
        with path.open(newline="") as old:
            rows = {(row["group"], row["kind"]): row for row in csv.DictReader(old)}
    for (group, kind), (tried, survived) in CASES.items():
        counts = {"tried": tried, "survived": survived, "lost": tried - survived}
        rows[group, kind] = {"group": group, "kind": kind} | counts | now
    with path.open("w", newline="") as new:
        table = csv.DictWriter(new, list(next(iter(rows.values()))))
        table.writeheader()
        table.writerows(rows[key] for key in sorted(rows))


@pytest.fixture
def small_disk(tmp_path):
    """Mount a small disk in memory; returns it, and a function that sets its size in MB. Skipped where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size, *options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}m", *options]), "tmpfs", folder]
        return subprocess.run(command, capture_output=True).returncode

    try:
        allowed = resize(1) == 0
    except OSError:
        allowed = False
    if not allowed:
        pytest.skip("mounting is not allowed here")
    yield folder, lambda size, *options: resize(size, "remount", *options)
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="session")
def common(tmp_path_factory):
    """A folder of this run that all workers of pytest-xdist have: what is made there must lock by itself."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def corpus(common):
    """A synthetic corpus of 20 voices (read only)."""
    return make_synthetic(common / "synthetic-smoke", "smoke", seed=0)


@pytest.fixture(scope="session")
def place(corpus, common):
    """The Place of the synthetic corpus, with its manifest and the stores pcm, log_mel and mfcc (read only)."""
    from kws.preprocess import write_store

    place = make_manifest(corpus, common / "work", "smoke")
    for feature in ("pcm", "log_mel", "mfcc"):
        write_store(place, feature)
    return place


@pytest.fixture(scope="session")
def work(place):
    """Working folder with the manifest and stores of the synthetic corpus (read only)."""
    return place.work


@pytest.fixture(scope="session")
def manifest(place):
    """The manifest of the synthetic corpus (read only)."""
    return place.manifest


@pytest.fixture(scope="session")
def clips(manifest):
    """Forty spoken clips: float32 [40, 16,000]."""
    paths = manifest[manifest.speaker != ""].sample(40, random_state=0).path
    return np.stack([read_clip(path) for path in paths])


@pytest.fixture
def small_corpus(tmp_path):
    """A corpus of ten voices that say “yes” and “bed”, to be spoilt by a test."""
    folder, say = tmp_path / "small", load_espeak()
    for i, voice in enumerate(make_voices(10)):
        for word in ("yes", "bed"):
            clip = utter(say, voice, word, np.random.default_rng(i))
            write_wav(folder / "train/audio" / word / f"{voice.speaker}_nohash_0.wav", clip)
    make_noises(folder / "train/audio/_background_noise_", seconds=10)
    return folder


@pytest.fixture(scope="session")
def real_corpus(tmp_path_factory):
    """Real speech, where there is some beside the project."""
    if not (SHARED / "speech_commands/unpack.py").exists():
        pytest.skip("no real speech beside the project")
    folder = tmp_path_factory.mktemp("real") / "speech"
    subprocess.run(
        [sys.executable, SHARED / "speech_commands/unpack.py", folder], check=True, stdout=subprocess.DEVNULL
    )
    return folder


@pytest.fixture(scope="session")
def tf14():
    """Folder with the libraries of TensorFlow 1.4.0 (its wheel, 41 MB, is kept in the user's cache)."""
    from kws.infra.tf14 import tf14_libraries

    try:
        return tf14_libraries()
    except CourseError as error:
        pytest.skip(str(error))
