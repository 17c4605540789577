"""The whole course against corpora of several shapes: what notebook 0 accepts, all others take."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from kws.audio import write_wav

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the cells run in forks"),
]


def beep(number, loudness=0.3):
    """A second with a beep of its own: float [16,000]."""
    sound = loudness * np.sin(np.arange(16_000) * (0.1 + number / 300)) * np.hanning(16_000)
    return sound + loudness / 30 * np.random.default_rng(number).standard_normal(16_000)


def make_corpus(folder, words, speakers=30, tests=6):
    """A recording of each word by each speaker, noise, and test clips, in the contest's layout."""
    audio = folder / "train/audio"
    for speaker in range(speakers):
        for number, word in enumerate(words):
            write_wav(audio / word / f"spk{speaker:03}_0.wav", beep(10 * speaker + number))
    write_wav(audio / "_background_noise_/room.wav", 0.05 * np.random.default_rng(0).standard_normal(640_000))
    for number in range(tests):
        write_wav(folder / f"test/audio/clip_{number}.wav", beep(number))
    return audio


def only_commands(folder):
    make_corpus(folder, ["computer", "lights"])


def one_word(folder):
    make_corpus(folder, ["computer"])


def words_with_spaces(folder):
    make_corpus(folder, ["turn on", "zoom in", "music"])


def held_out_is_the_last_unknown(folder):
    make_corpus(folder, ["one", "two", "three"])


def muted_takes(folder):
    audio = make_corpus(folder, ["computer", "lights", "window", "music"])
    for number, path in enumerate(sorted(audio.glob("[!_]*/*.wav"))[::10]):
        write_wav(path, beep(number, loudness=(0, 0.0005, 0.002)[number % 3]))


def an_unreadable_test_clip(folder):
    make_corpus(folder, ["computer", "lights", "window"])
    (folder / "test/audio/clip_2.wav").write_bytes(b"")


def five_speakers(folder):
    make_corpus(folder, ["computer", "lights", "window"], speakers=5)
    for name, speaker in (("validation_list.txt", 3), ("testing_list.txt", 4)):
        lines = [f"{word}/spk{speaker:03}_0.wav\n" for word in ("computer", "lights", "window")]
        (folder / "train" / name).write_text("".join(lines))


SHAPES = {
    one_word: "computer",
    an_unreadable_test_clip: "computer lights",
    only_commands: "computer lights",
    words_with_spaces: "turn on, zoom in",
    held_out_is_the_last_unknown: "one three",
    muted_takes: "computer lights",
    five_speakers: "computer",
}


QUICKEST = one_word, five_speakers  # in `make test`; the others in `make full`


@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, marks=[] if shape in QUICKEST else [pytest.mark.full]) for shape in SHAPES],
    ids=lambda shape: shape.__name__,
)
def test_the_course_on_a_corpus_of_another_shape(shape, tmp_path):
    shape(tmp_path / "corpus")
    notebooks = sorted(path.name for path in ROOT.glob("[0-6]_*.ipynb"))
    for name in notebooks:
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "benchmarks/results", tmp_path / "benchmarks/results")  # tables that pages show
    environment = os.environ | {
        "PROFILE": "smoke",
        "CORPUS": "corpus",
        "WORDS": SHAPES[shape],
        "PYTHONPATH": str(ROOT),
    }
    program = [sys.executable, Path(__file__).with_name("cells.py"), *notebooks]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr[-3_000:]
    assert done.stdout.count("ran through") == len(notebooks)
    submission = pd.read_csv(tmp_path / "data/corpus-smoke/submission.csv")
    labels = (tmp_path / "data/corpus-smoke/labels.txt").read_text().splitlines()
    assert len(submission) == 6 and set(submission.label) <= set(labels)
    assert labels[2:] == [word.strip() for word in SHAPES[shape].split("," if "," in SHAPES[shape] else " ")]
