"""The notebooks as a course: from end to end, with own words, in odd places, out of order."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from course.running import NOTEBOOKS, copy_course, run_course, smoke

from kws.audio import coloured_noise, write_wav
from kws.infra.runs import Options, train
from kws.infra.synthetic import load_espeak, make_voices, utter
from kws.microphone import record_words
from kws.pretrained import open_model
from tools import demo

full = pytest.mark.full


def said(done):
    """The end of what a run has said, for a message."""
    return done.stdout[-2_000:] + done.stderr[-2_000:]


@pytest.mark.timeout(2_400)
@pytest.mark.xdist_group("course")
def test_seven_notebooks_end_to_end(tmp_path):
    """In a folder whose name is not only ASCII and has a space, as folders have."""
    course = copy_course(tmp_path / "mein Kurs für Käthe")
    done = run_course(course)
    assert done.returncode == 0, said(done)
    work = course / "data/synthetic-smoke"
    sample = pd.read_csv(course / "data/raw/synthetic-smoke/sample_submission.csv")
    assert pd.read_csv(work / "submission.csv").fname.tolist() == sample.fname.tolist()
    graphs = ("frozen.pb", "model.tflite", "model_int8.tflite")
    for file in (*graphs, "labels.txt", "manifest.csv", "experiments.csv", "summary.txt"):
        assert (work / file).stat().st_size > 0
    results = json.loads((work / "results.json").read_text())
    assert results["board"]["all"]["n"] == len(sample)
    lines = done.stdout.splitlines()
    at = [[n for n, line in enumerate(lines) if line.startswith(path.stem)] for path in NOTEBOOKS]
    assert all(len(found) == 1 for found in at) and sorted(at) == at, "one line per notebook, in order"
    summary = "\n".join(lines[at[-1][0] + 1 :])
    assert summary.endswith((work / "summary.txt").read_text().rstrip())
    for wanted in (
        "parameters", "held-out voices", "chance", "withheld solution", "ms per clip", "submission.csv",
    ):  # fmt: skip
        assert wanted in summary
    pages = sorted((work / "notebooks").glob("*.ipynb"))
    assert [page.name for page in pages] == [path.name for path in NOTEBOOKS]

    products = [*work.glob("*.bc/store.json"), *work.glob("*.keras"), work / "manifest.csv"]
    made = {path: path.stat().st_mtime_ns for path in products}
    makers = [path.name for path in NOTEBOOKS if path.stem[0] in "034"]  # of what takes long
    again = run_course(course, *makers)
    assert again.returncode == 0, said(again)
    assert made == {path: path.stat().st_mtime_ns for path in made}, (
        "the second run made again what was there"
    )


@full
@pytest.mark.timeout(2_400)
def test_long_experiments(tmp_path):
    """Begun at notebook 4, as tools/checkpoint.py allows."""
    course = copy_course(tmp_path / "course")
    work = course / "data/synthetic-smoke"
    work.mkdir(parents=True)
    rows = pd.read_csv(ROOT / "benchmarks/results/synthetic/experiments.csv")
    rows[rows.model == "linear"].to_csv(work / "experiments.csv", index=False)
    ready = run_course(course, "4", tool="checkpoint.py")
    assert ready.returncode == 0 and ready.stdout.endswith("Notebook 4 can begin.\n"), said(ready)
    notebooks = "4_full_training.ipynb", "extras/tricks_and_labels.ipynb"
    done = run_course(course, *notebooks, EXPERIMENTS="more")
    assert done.returncode == 0, said(done)
    tried = pd.read_csv(work / "training_experiments.csv")
    assert set(tried.experiment) == {
        "recipe", "twice", "wrong labels", "balance", "tricks", "pseudo labels", "warm start", "distillation",
    }  # fmt: skip
    results = json.loads((work / "results.json").read_text())
    assert 0 <= results["board_estimate"]["unknown"] <= 1


@full
@pytest.mark.timeout(2_400)
def test_own_words_end_to_end(tmp_path):
    """Recorded one speaker after the other, trained, frozen, predicted, and on the page that listens.

    Words with accents and spaces, on a system whose language is none.
    """
    course, corpus, say = copy_course(tmp_path / "course"), tmp_path / "mine", load_espeak()
    spoken = {"computer": "computer", "lights aus": "lights", "Tür": "window", "music": "music", "two": "two"}
    for i, voice in enumerate(make_voices(24)):
        rng, prompts = np.random.default_rng(i), []

        def hear(seconds, voice=voice, rng=rng, prompts=prompts):
            """A room, and in it the word that was asked for last."""
            sound = 0.003 * coloured_noise(round(seconds * 16_000), 1, rng)
            if asked := [line.split("say:  ")[1] for line in prompts if "say:  " in line][-1:]:
                word = utter(say, voice, spoken[asked[0]], rng)
                sound[6_000 : 6_000 + len(word)] += word[: len(sound) - 6_000]
            return np.clip(sound, -0.98, 0.98).astype("float32")

        if i > 20:  # these say what is to be predicted
            for word in spoken.values():
                write_wav(corpus / f"test/audio/{voice.speaker}{word}_{i}.wav", utter(say, voice, word, rng))
            continue
        count = record_words(
            spoken, voice.speaker, corpus / "train/audio", 1, hear, prompts.append, lambda seconds: None
        )
        assert count >= 3, prompts
    environment = {"CORPUS": str(corpus), "WORDS": "computer, lights aus, Tür", "LC_ALL": "C", "LANG": "C"}
    done = run_course(course, **environment)
    assert done.returncode == 0, said(done)
    work, labels = course / "data/mine-smoke", ["silence", "unknown", "computer", "lights aus", "Tür"]
    assert (work / "labels.txt").read_text(encoding="utf-8").splitlines() == labels
    submission = pd.read_csv(work / "submission.csv")
    assert len(submission) == 15 and set(submission.label) <= set(labels)
    assert (submission.label != "silence").any()
    assert demo.models_of(work)[0][1] == work / "model_int8.tflite", (
        "the page begins with the group's own model"
    )
    assert open_model(work / "model_int8.tflite").labels == labels


def test_a_bad_corpus_gets_one_clear_message(tmp_path):
    course = copy_course(tmp_path / "course")
    done = run_course(course, CORPUS="data/raw/nowhere")
    assert done.returncode == 1 and "data/raw/nowhere: there is no such folder" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_course(course, PROFILE="huge")
    assert done.returncode == 1 and "there are smoke, sample and full" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_passes_on_only_what_was_set():
    passed_on = ("WORDS", "HELD_OUT", "MODEL", "EXPERIMENTS", "PEERS", "CLUSTER")
    command = ["make", "-s", "--eval", "shown:\n\t@env", "shown", "WORDS=on off", "HELD_OUT="]
    environment = {name: value for name, value in smoke(MODEL="gru").items() if name != "CORPUS"}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    found = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    assert {name: found[name] for name in passed_on if name in found} == {
        "WORDS": "on off", "HELD_OUT": "", "MODEL": "gru",
    }  # fmt: skip
    assert found["CORPUS"] == "synthetic"


@pytest.fixture
def run_cells(tmp_path):
    """Function (number of a notebook) -> what its first error says, of its cells, run one after the other in tmp_path."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("cells.py")],
        cwd=tmp_path,
        env=smoke(PYTHONPATH=str(ROOT)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def run(name):
        path = next(ROOT.glob(f"{name}_*.ipynb"))
        print(path, file=process.stdin, flush=True)
        return process.stdout.readline().removeprefix(f"{path}: ")

    with process:
        yield run
        process.stdin.close()


@full
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")
@pytest.mark.timeout(600)
def test_notebooks_out_of_order(place, tmp_path, run_cells, cases):
    data = tmp_path / "data/synthetic-smoke"
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/synthetic-smoke").symlink_to(place.folder)

    def expect(name, first, file):
        with cases("fault", "notebook started out of order"):
            said = run_cells(name)
            assert ": CourseError: " in said and first in said and file in said, said

    for name in "123456":
        expect(name, "0_split.ipynb", "data/synthetic-smoke/manifest.csv")
    data.mkdir()
    for file in ("manifest.csv", "labels.txt", "manifest.json"):
        shutil.copy(place.work / file, data)
    expect("4", "3_sample_experiments.ipynb", "data/synthetic-smoke/experiments.csv")
    kept = pd.DataFrame([{"model": "linear", "accuracy": 0.5, "MACs": 47_040, "seed": 0}, {"model": "dnn"}])
    kept.to_csv(data / "experiments.csv", index=False)
    expect("4", "2_preprocess_augment.ipynb", "data/synthetic-smoke/")
    for store in place.work.glob("*.bc"):
        shutil.copytree(store, data / store.name)
    expect("5", "4_full_training.ipynb", "data/synthetic-smoke/linear.keras")
    expect("6", "4_full_training.ipynb", "data/synthetic-smoke/linear.keras")
    train(place._replace(work=data), Options("linear", 2))
    expect("6", "5_freeze_and_pi.ipynb", "data/synthetic-smoke/frozen.pb")
