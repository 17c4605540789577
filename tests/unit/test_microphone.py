"""The model of the package, and a microphone: stand-ins for it, and miniaudio's own silent device."""

import itertools
import json
import time

import numpy as np
import pytest

from kws import microphone, pi, pretrained
from kws.audio import CLIP_SAMPLES
from kws.infra.files import CourseError, file_digest
from kws.split import LABELS


@pytest.mark.parametrize("name", pretrained.shipped_models())
def test_shipped_models(name):
    model = pretrained.load_pretrained(name)
    assert tuple(model.labels) == LABELS == tuple(model.card["labels"])
    assert model.card["sha256"] == file_digest(model.path) and model.card["bytes"] < 500_000
    assert pretrained.top(model, np.zeros(CLIP_SAMPLES))[0][0] == "silence"
    text = model.path.with_name("README.md").read_text()
    for needed in ("CC BY 4.0", "cannot do", "speakers", f"{model.card['bytes']:,} bytes"):
        assert needed in text
    score = model.card["held-out voices"]
    assert f"{100 * score['accuracy']:.1f} % of {score['n']:.0f} clips" in text


def test_the_default_is_first_and_others_are_refused():
    default = (pretrained.SHIPPED / "default.txt").read_text().strip()
    assert pretrained.shipped_models()[0] == default == pretrained.load_pretrained().card["name"]
    with pytest.raises(CourseError, match="no such model in the package. There are"):
        pretrained.load_pretrained("huge")


def test_sounds_that_are_none(tmp_path):
    path = tmp_path / "a.wav"
    import soundfile

    soundfile.write(path, np.full(100, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(CourseError, match="not a number"):
        pretrained.read_sound(path)
    soundfile.write(path, np.zeros(0), 16_000)
    assert pretrained.loudest_second(pretrained.read_sound(path))[1].shape == (CLIP_SAMPLES,)


def test_a_word_is_cut_out():
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 1e-3, 40_000)
    sound[20_000:26_000] += 0.3 * np.sin(np.arange(6_000) / 5)
    clip = microphone.cut_word(sound)
    assert clip.shape == (CLIP_SAMPLES,) and clip.dtype == np.float32
    middle = np.average(np.arange(CLIP_SAMPLES), weights=clip**2)
    assert abs(middle - CLIP_SAMPLES / 2) < 400
    early = microphone.cut_word(sound[19_000:])  # zeros where there was no sound
    assert abs(np.average(np.arange(CLIP_SAMPLES), weights=early**2) - CLIP_SAMPLES / 2) < 400


@pytest.mark.parametrize(
    ("loudness", "samples", "sentence"),
    [
        (1e-3, 6_000, "Speak up"),
        (2.0, 6_000, "clipped"),
        (0.3, 17_500, "longer than a second"),
        (0, 0, "nothing"),
    ],
)
def test_words_that_are_asked_for_again(loudness, samples, sentence):
    sound = np.random.default_rng(0).normal(0, 1e-3, 32_000 if samples else 0)
    sound[4_000 : 4_000 + samples] += loudness * np.sin(np.arange(samples) / 5)
    with pytest.raises(CourseError, match=sentence):
        microphone.cut_word(np.clip(sound, -1, 1))


def test_a_word_that_is_never_heard_is_passed_over(tmp_path):
    said = []
    quiet = lambda seconds: np.random.default_rng(0).normal(0, 1e-4, round(16_000 * seconds))  # noqa: E731
    count = microphone.record_words(
        ["yes"], "anna", tmp_path, 1, quiet, said.append, wait=lambda seconds: None, tries=2
    )
    assert count == 0 and "passed over after 2 tries" in said[-1] and not (tmp_path / "yes").exists()


def test_levels():
    assert microphone.level(np.zeros(10)) == microphone.level(np.zeros(0)) == -np.inf
    assert microphone.meter(-np.inf, 5) == "|     | silent " and microphone.meter(0, 5).startswith("|#####|")


def test_what_waited_is_left_out(monkeypatch):
    times = itertools.chain([0, 0.001, 0.002, 0.003, 0.004, 0.1], itertools.repeat(0.2))
    monkeypatch.setattr(microphone.time, "perf_counter", lambda: next(times))
    chunks = iter(range(10))
    microphone.skip_old(chunks)
    assert next(chunks) == 3


def test_nobody_is_recorded_unasked(monkeypatch):
    monkeypatch.delenv("LISTEN", raising=False)
    monkeypatch.setattr(microphone, "record_clip", lambda seconds: pytest.fail("it listens"))
    assert "make lab" in microphone.hear_a_word()


def test_no_microphone_is_said(monkeypatch):
    monkeypatch.setenv("LISTEN", "1")

    def none(device=""):
        raise CourseError(microphone.NONE)
        yield

    monkeypatch.setattr(microphone, "microphone", none)
    assert microphone.hear_a_word().startswith("Nothing was recorded: no microphone was found")
    monkeypatch.setattr(
        microphone, "microphone", lambda device="": itertools.repeat(np.zeros(1_600, "float32"))
    )
    assert microphone.hear_a_word().startswith("silence ")


def test_the_silent_device_of_miniaudio(capsys):
    """The library's own device, which gives zeros as fast as a microphone would give sound."""
    miniaudio = pytest.importorskip("miniaudio")
    chunks = microphone.microphone(backends=[miniaudio.Backend.NULL])
    sound = microphone.take(chunks, 0.5)
    assert sound.shape == (8_000,) and sound.dtype == np.float32 and not sound.any()
    time.sleep(1)  # a countdown
    start = time.perf_counter()
    microphone.skip_old(chunks)
    assert time.perf_counter() - start < 0.9, "what had been heard meanwhile comes at once"
    start = time.perf_counter()
    microphone.take(chunks, 1)
    assert time.perf_counter() - start > 0.7, "and what is taken is heard now"
    microphone.take(chunks, 1)
    assert capsys.readouterr().err.strip() == microphone.MUTED
    chunks.close()
    with pytest.raises(CourseError, match="no such microphone|no microphone was found"):
        next(microphone.microphone("there is none of this name"))


def test_where_miniaudio_has_no_wheel_arecord_stands_in(monkeypatch):
    monkeypatch.setattr(microphone, "_miniaudio", lambda: None)
    monkeypatch.setattr(pi, "microphone", lambda stride_ms, device: iter([(stride_ms, device)]))
    assert next(microphone.microphone("plughw:1,0")) == (100, "plughw:1,0") and microphone.microphones() == []

    def gone(stride_ms, device):
        raise SystemExit("arecord: there is no such program")
        yield

    monkeypatch.setattr(pi, "microphone", gone)
    monkeypatch.setenv("LISTEN", "1")
    assert microphone.hear_a_word() == "Nothing was recorded: arecord: there is no such program."


def test_shipping_a_model(tmp_path, monkeypatch):
    from tools import ship_model

    there = pretrained.load_pretrained()
    score = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 100.0, "chance": 0.25}
    results = {
        "corpus": "mine",
        "training": {"model": "tc_resnet8", "parameters": 10, "MACs": 20, "train_clips": 30}
        | {"epochs": 1, "seed": 0, "date": "2026-01-01", "splits": ["train"]},
        "scores": {"test, spoken": score, "val, spoken": score},
        "deployed": {"model_int8.tflite": score},
        "streaming": [
            {"clips": clips, "noise": 0.1, "minutes": 40.2, "threshold": 0.55}
            | {"true": 9, "correct": correct, "wrong": 1, "false alarms": 3}
            for clips, correct in (("val", 7), ("test", 5), ("read out", 0))
        ],
    }
    work = tmp_path / "work"
    work.mkdir()
    (work / "results.json").write_text(json.dumps(results))
    (work / "manifest.csv").write_text("split,speaker\ntrain,carl\ntrain,dora\ntest,anna\nval,ben\nval,\n")
    (work / "model_int8.tflite").write_bytes(there.path.read_bytes())
    (work / "labels.txt").write_text("\n".join(there.labels))
    for module in (ship_model, pretrained):
        monkeypatch.setattr(module, "SHIPPED", tmp_path / "shipped")
    folder = ship_model.ship(work, name="mine")
    assert pretrained.load_pretrained().path == folder / "model.tflite" and pretrained.shipped_models() == [
        "mine"
    ]
    card = (folder / "README.md").read_text()
    assert "50.0 % of 100 clips" in card
    assert "30 training clips of 2 speakers from mine" in card
    assert "5 of 9 commands right, 1 wrong, 3 false alarms in 40 minutes (threshold 0.55)" in card
    assert "reading, in noise of volume 0.1 | 3 false alarms" in card and "7 of 9" not in card
    with pytest.raises(CourseError, match="no scores of other.tflite"):
        ship_model.ship(work, "other.tflite")
