"""The course as a whole: export, the seven notebooks end to end, the committed pages."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from kws import split
from kws.models import FEATURE_SHAPE

NOTEBOOKS = sorted(ROOT.glob("[0-6]_*.ipynb"))


def copy_course(folder):
    """The course without its data in another folder."""
    for path in [*NOTEBOOKS, ROOT / "pyproject.toml"]:
        shutil.copy(path, folder)
    for name in ("kws", "tools"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_modidx.py")
        )
    return folder


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    return copy_course(tmp_path_factory.mktemp("course"))


def run_course(course, *args, **environment):
    environment = os.environ | {"PROFILE": "smoke", "CORPUS": "synthetic"} | environment
    return subprocess.run(
        [sys.executable, "tools/course.py", *args],
        cwd=course,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_export_is_up_to_date(tmp_path):
    course = copy_course(tmp_path)
    export = Path(sys.executable).with_name("nbdev-export")
    for _ in range(2):
        subprocess.run([export], cwd=course, check=True, env=os.environ | {"PYTHONPATH": str(course)})
    for path in sorted((course / "kws").glob("[!_]*.py")):
        assert path.read_text() == (ROOT / "kws" / path.name).read_text(), (
            f"run nbdev-export: {path.name} differs"
        )


@pytest.mark.timeout(1200)
def test_seven_notebooks_end_to_end(course):
    done = run_course(course)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    work = course / "data/synthetic-smoke"
    sample = pd.read_csv(course / "data/raw/synthetic-smoke/sample_submission.csv")
    assert pd.read_csv(work / "submission.csv").fname.tolist() == sample.fname.tolist()
    for file in (
        "frozen.pb",
        "model.tflite",
        "model_int8.tflite",
        "labels.txt",
        "manifest.csv",
        "experiments.csv",
    ):
        assert (work / file).stat().st_size > 0
    results = json.loads((work / "results.json").read_text())
    assert results["board"]["all"]["n"] == len(sample)
    for wanted in (
        "parameters",
        "held-out voices",
        "chance",
        "withheld solution",
        "ms per clip",
        "submission.csv",
    ):
        assert wanted in done.stdout.split("=== 6_submission.ipynb")[-1]
    made = {
        p: p.stat().st_mtime_ns
        for p in [*work.glob("*.bc/store.json"), *work.glob("*.keras"), work / "manifest.csv"]
    }
    again = run_course(course)
    assert again.returncode == 0
    assert made == {p: p.stat().st_mtime_ns for p in made}, "the second run made again what was there"


@pytest.mark.timeout(1200)
def test_long_experiments(course):
    done = run_course(course, "4_full_training.ipynb", EXPERIMENTS="more")
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    work = course / "data/synthetic-smoke"
    tried = pd.read_csv(work / "training_experiments.csv")
    assert set(tried.experiment) == {
        "recipe", "twice", "engines", "wrong labels", "balance", "tricks", "pseudo labels", "warm start", "distillation",
    }  # fmt: skip
    results = json.loads((work / "results.json").read_text())
    assert 0 <= results["board_estimate"]["all of them new"] <= 1


@pytest.mark.timeout(1200)
def test_own_words_end_to_end(course, tmp_path):
    corpus, say = tmp_path / "mine", split.load_espeak()
    for i, voice in enumerate(split.make_voices(24)):
        for word in ("computer", "lights", "window", "music", "two"):
            clip = split.utter(say, voice, word, np.random.default_rng(i))
            place = "test/audio" if i > 20 else f"train/audio/{word}"
            split.write_wav(corpus / place / f"{voice.speaker}{word if i > 20 else ''}_{i}.wav", clip)
    noise = 0.05 * split.coloured_noise(40 * 16_000, 1, np.random.default_rng(0))
    split.write_wav(corpus / "train/audio/_background_noise_/room.wav", noise)
    done = run_course(course, CORPUS=str(corpus), WORDS="computer lights")
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    work, labels = course / "data/mine-smoke", ["silence", "unknown", "computer", "lights"]
    assert (work / "labels.txt").read_text().split() == labels
    submission = pd.read_csv(work / "submission.csv")
    assert len(submission) == 15 and set(submission.label) <= set(labels)
    assert (submission.label != "silence").any()


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_passes_on_only_what_was_set():
    passed_on = ("WORDS", "HELD_OUT", "MODEL", "EXPERIMENTS", "PEERS", "CLUSTER")
    environment = {name: value for name, value in os.environ.items() if name not in passed_on}
    command = ["make", "-s", "--eval", "shown:\n\t@env", "shown", "WORDS=on off", "HELD_OUT="]
    shown = subprocess.run(
        command, cwd=ROOT, env=environment | {"MODEL": "gru"}, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    found = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    assert {name: found[name] for name in passed_on if name in found} == {
        "WORDS": "on off", "HELD_OUT": "", "MODEL": "gru",
    }  # fmt: skip
    assert found["CORPUS"] == os.environ.get("CORPUS", "synthetic")


def test_a_bad_corpus_gets_one_clear_message(course, tmp_path):
    done = run_course(course, CORPUS="data/raw/nowhere")
    assert (
        done.returncode == 1
        and "data/raw/nowhere: there is no such folder" in done.stderr
        and "Traceback" not in done.stderr
    )
    done = run_course(course, PROFILE="huge")
    assert (
        done.returncode == 1
        and "there are smoke, sample and full" in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_page(path):
    notebook = json.loads(path.read_text())
    code = [
        cell for cell in notebook["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()
    ]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), (
        "not run in order from a clean start"
    )
    outputs = json.dumps([cell["outputs"] for cell in code])
    assert '"output_type": "error"' not in outputs
    assert "data:audio" not in outputs
    assert not re.search(r"/(home|root|tmp|work|Users)/", outputs), "a path of somebody's machine"
    assert path.stat().st_size < 1_500_000
    assert [cell["metadata"].get("tags") for cell in code].count(["parameters"]) == 1


def test_the_seven_are_there():
    assert [p.stem[0] for p in NOTEBOOKS] == list("0123456")


def test_readme_says_what_was_measured():
    from tools.results import with_results

    readme = (ROOT / "README.md").read_text()
    assert with_results(readme, ROOT / "benchmarks/results") == readme, "run python tools/results.py"


def test_every_number_of_the_readme_has_a_source():
    from tools.results import MARKERS

    text = (ROOT / "README.md").read_text()
    begin, end = (text.index(marker) for marker in MARKERS)
    free = text[:begin] + text[end:]
    names = r"`[^`]*`|\]\([^)]*\)|v0\.0[12]|notebooks? \d(?: and \d)?|\[\d_\w+|arXiv:[\d.]+|Python 3\.10 to 3\.13|SHA-256|N=4"
    names += r"|16 kHz, 16-bit|TensorFlow 1\.4|int8|Apache-2\.0|CC BY 4\.0|float32 \[1,"
    names += r"|DCASE 2019 task 2|Tagging 2019|MobileNet v1|23 million clips|section \d|(?m:^    (?:python|    )[^#\n]*)"
    numbers = set(re.findall(r"\d[\d,.]*\d|\d", re.sub(names, "", free)))
    frames, bins = FEATURE_SHAPE
    known = {str(frames), str(bins), str(len(split.SPOKEN_WORDS))}
    known |= {"3.5"}  # GB of train.7z and test.7z, as the contest's page lists them
    for archive in split.ARCHIVES.values():
        known |= {f"{archive.clips:,}", f"{archive.bytes / 1e6:.0f}", f"{archive.bytes / 1e9:.1f}"}
    known |= {f"{split.SYNTHETIC_SIZES[profile][0]:,}" for profile in ("sample", "full")}
    assert numbers and numbers <= known, numbers - known
    best = json.loads((ROOT / "benchmarks/results/speech_commands_16k/results.json").read_text())["deployed"]
    whole_sentence = "takes less than half a megabyte and labels a\nclip in less than a millisecond"
    assert whole_sentence in free
    assert best["model_int8.tflite"]["bytes"] < 500_000 and best["model_int8.tflite"]["ms"] < 1


def test_testing_says_what_was_counted(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from tools.testing import FILE, with_cases

    page = (ROOT / "TESTING.md").read_text()
    assert with_cases(page) == page, "run python tools/testing.py"
    counts = pd.read_csv(FILE)
    assert (counts.lost == 0).all() and (counts.survived == counts.tried).all()
