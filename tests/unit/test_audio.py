"""Clips: which files are, how they are read, checked, written and played; coloured noise."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
import soundfile

from kws.audio import (
    CLIP_SAMPLES,
    SAMPLE_RATE,
    as_text,
    check_wav,
    coloured_noise,
    files_by_name,
    is_text,
    listen,
    noise_recordings,
    read_clip,
    read_clips,
    recordings,
    same_name,
    to_float,
    visible_files,
    write_wav,
)
from kws.infra.files import CourseError

RAMP = np.linspace(0.1, 0.5, 40_000, dtype="float32")


def bad_wavs(folder):
    """Seven files that are not 16 kHz 16-bit mono wavs, with a word of the reason for each."""
    sounds = {"stereo": np.stack([RAMP, RAMP], 1), "eightbit": RAMP, "cd": RAMP, "nothing": RAMP[:0]}
    for name, sound in sounds.items():
        subtype = "PCM_U8" if name == "eightbit" else "PCM_16"
        soundfile.write(folder / f"{name}.wav", sound, 44_100 if name == "cd" else SAMPLE_RATE, subtype)
    write_wav(folder / "whole.wav", RAMP)
    (folder / "truncated.wav").write_bytes((folder / "whole.wav").read_bytes()[:9_000])
    (folder / "whole.wav").unlink()
    (folder / "text.wav").write_text("this is not a recording")
    (folder / "empty.wav").touch()
    return {
        "stereo": "2 channel",
        "eightbit": "8 bits",
        "cd": "44,100",
        "nothing": "no samples",
        "truncated": "truncated: 4,478 of 40,000",
        "text": "not a PCM wav",
        "empty": "not a PCM wav",
    }


def test_what_is_wrong_with_a_wav(tmp_path):
    for name, reason in bad_wavs(tmp_path).items():
        assert reason in check_wav(tmp_path / f"{name}.wav")[0], name
    assert "not a PCM wav" in check_wav(tmp_path / "missing.wav")[0]


@pytest.mark.parametrize("name", ["stereo", "cd", "text", "empty", "missing"])
def test_reading_a_bad_clip_names_it(tmp_path, name):
    bad_wavs(tmp_path)
    with pytest.raises(CourseError, match=f"{name}.wav.*16 kHz 16-bit mono wav"):
        read_clip(tmp_path / f"{name}.wav")


def test_a_good_wav_has_samples_and_a_digest_of_its_sound(tmp_path):
    sounds = {"one": RAMP, "padded": np.pad(RAMP, (0, 500)), "other": RAMP[::-1]}
    for name, sound in sounds.items():
        write_wav(tmp_path / f"{name}.wav", sound)
    facts = {name: check_wav(tmp_path / f"{name}.wav") for name in sounds}
    assert [fault for fault, _, _ in facts.values()] == ["", "", ""]
    assert [samples for _, samples, _ in facts.values()] == [40_000, 40_500, 40_000]
    assert facts["one"][2] == facts["padded"][2] != facts["other"][2]


def test_short_clips_are_padded_and_long_ones_cut(tmp_path):
    write_wav(tmp_path / "long.wav", RAMP)
    write_wav(tmp_path / "short.wav", RAMP[:5_000])
    np.testing.assert_allclose(
        read_clip(tmp_path / "long.wav", 20_000, 0.5), 0.5 * RAMP[20_000:36_000], atol=1e-4
    )
    short = read_clip(tmp_path / "short.wav")
    assert short.shape == (CLIP_SAMPLES,) and not short[5_000:].any() and short[4_999] > 0
    assert len(read_clip(tmp_path / "long.wav", samples=-1)) == 40_000


def test_many_clips_are_read_as_one_is(manifest, tmp_path):
    rows = manifest.groupby("label", observed=True).head(8).reset_index(drop=True)
    assert (rows.label == "silence").any(), "with start and gain"
    odd = rows.iloc[[0, 0, 0]].assign(
        path=[str(tmp_path / f"{n}.wav") for n in ("long", "short", "float")], start=[100, 0, 0], gain=0.3
    )
    pcm = np.random.default_rng(0).uniform(-1, 1, 20_000)
    soundfile.write(odd.path.iloc[0], pcm, SAMPLE_RATE, subtype="PCM_16")
    soundfile.write(odd.path.iloc[1], pcm[:3_001], SAMPLE_RATE, subtype="PCM_16")
    soundfile.write(odd.path.iloc[2], pcm, SAMPLE_RATE, subtype="FLOAT")
    for some in (rows, odd):
        expected = np.stack([read_clip(r.path, r.start, r.gain) for r in some.itertuples()])
        found = read_clips(some)
        assert np.array_equal(found, expected) and found.dtype == np.float32
    np.testing.assert_allclose(read_clips(odd)[2], 0.3 * pcm[:CLIP_SAMPLES], atol=1e-6)
    (tmp_path / "short.wav").write_bytes(b"RIFF")
    with pytest.raises(CourseError, match="short.wav"):
        read_clips(odd)
    assert read_clips(rows[:0]).shape == (0, CLIP_SAMPLES)


@pytest.mark.parametrize(
    "wrong", [{"start": -1}, {"samples": -2}, {"gain": np.nan}, {"gain": np.inf}], ids=str
)
def test_no_part_of_a_recording(tmp_path, wrong):
    write_wav(tmp_path / "x.wav", RAMP)
    (name, value), *_ = wrong.items()
    with pytest.raises(CourseError, match=f"{name}={value}.*no part of a recording"):
        read_clip(tmp_path / "x.wav", **wrong)


def test_floats_beyond_full_scale_are_no_sound(tmp_path):
    for value in (1.5, np.nan):
        soundfile.write(tmp_path / "x.wav", np.full(100, value), SAMPLE_RATE, subtype="FLOAT")
        with pytest.raises(CourseError, match="x.wav: amplitudes beyond full scale"):
            read_clip(tmp_path / "x.wav")


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "new/folder/x.wav"
    write_wav(path, RAMP)
    np.testing.assert_allclose(read_clip(path), RAMP[:CLIP_SAMPLES], atol=1 / 32_768)
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
    write_wav(path, RAMP, 44_100)
    assert soundfile.info(path).samplerate == 44_100 and [p.name for p in path.parent.iterdir()] == ["x.wav"]
    assert np.array_equal(to_float(np.array([-32_768, 0, 16_384], "int16")), np.float32([-1, 0, 0.5]))


def test_files_of_the_system_are_no_recordings(tmp_path):
    for name in (
        "yes/b.WAV",
        "yes/a.wav",
        "yes/._a.wav",
        "yes/.DS_Store",
        "no/a.wav",
        ".git/x.wav",
        "_odd_/x.wav",
    ):
        path = tmp_path / "train/audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    noise = tmp_path / "train/audio/_background_noise_"
    noise.mkdir()
    for name in ("tap.wav", "README.md", "._tap.wav"):
        (noise / name).touch()
    found = [path.relative_to(tmp_path / "train/audio").as_posix() for path in recordings(tmp_path)]
    assert found == ["no/a.wav", "yes/a.wav", "yes/b.WAV"]
    assert [path.name for path in noise_recordings(tmp_path)] == ["tap.wav"]
    assert [path.name for path in visible_files(tmp_path / "train/audio/yes", ".wav")] == ["a.wav", "b.WAV"]
    assert visible_files(tmp_path / "nowhere") == []


def test_files_are_found_by_their_names_in_a_table(tmp_path):
    names = ("a.wav", "u\u0308ben.wav", "\u00e4.wav", "a\u0308.wav")
    for name in names:
        (tmp_path / name).touch()
    found = files_by_name(tmp_path)
    assert found("a.wav") == tmp_path / "a.wav" and found("gone.wav") == tmp_path / "gone.wav"
    assert found("\u00fcben.wav") == tmp_path / "u\u0308ben.wav"
    for name in names[2:]:
        assert found(name) == tmp_path / name, "the one that is spelt so, where there are both"


def test_names_that_are_no_text(tmp_path):
    assert is_text("größe") and not is_text("a\udcff") and as_text("a\udcff") == "a\\udcff"
    assert same_name("u\u0308ben") == same_name("\u00fcben") == "\u00fcben"
    path = tmp_path / "a\udcff.wav"
    try:
        path.write_bytes(b"x")
    except OSError:
        pytest.skip("no such names on this file system")
    assert check_wav(path) == ("a name that is no UTF-8: rename it", 0, "")
    with pytest.raises(CourseError, match=r"a\\udcff.wav: cannot be read"):
        read_clip(path)
    rows = pd.DataFrame({"path": [str(path)], "start": [0], "gain": [1.0]})
    write_wav(path, RAMP)
    np.testing.assert_allclose(read_clips(rows)[0], RAMP[:CLIP_SAMPLES], atol=1 / 32_768)


@pytest.mark.parametrize("exponent", [-2, -1, 0, 1, 2])
def test_coloured_noise_falls_with_frequency(exponent):
    noise = coloured_noise(2**18, exponent, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)) ** 2
    octave = [10 * np.log10(power[2**k : 2 ** (k + 1)].mean()) for k in (13, 14)]
    assert octave[1] - octave[0] == pytest.approx(-3.01 * exponent, abs=0.3)
    hertz = np.fft.rfftfreq(2**18, 1 / SAMPLE_RATE)
    density = [power[(hertz > low) & (hertz < 1.1 * low)].mean() for low in (100, 5_000)]
    assert np.log10(density[1] / density[0]) / np.log10(50) == pytest.approx(-exponent, abs=0.1)
    assert noise.shape == (2**18,) and np.mean(noise**2) == pytest.approx(1)


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_a_player_holds_the_sound_and_its_title(rate):
    sound = np.linspace(-0.9, 0.9, 400, dtype="float32")
    data, metadata = listen({"<yes>": sound, "again": 2 * sound}, rate=rate, made=True)._repr_mimebundle_()
    files = re.findall(r"base64,([^\"]+)", data["text/html"])
    heard, heard_rate = soundfile.read(io.BytesIO(base64.b64decode(files[0])), dtype="float32")
    assert np.allclose(heard, sound, atol=1e-4) and heard_rate == rate and len(files) == 2
    assert "&lt;yes&gt;" in data["text/html"] and "plays when you run this page" in data["text/plain"]
    assert metadata == {"sound": "made"}


def test_a_recording_is_not_taken_for_made_sound():
    assert listen(np.zeros(100), "yes")._repr_mimebundle_()[1] == {"sound": "recording"}
