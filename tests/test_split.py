"""Notebook 0: corpora, faults of files, the split, silence, the manifest."""

import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from kws.split import (
    CLIP_SAMPLES,
    LABELS,
    SAMPLE_SIZES,
    WORDS,
    CorpusError,
    coloured_noise,
    get_corpus,
    load_espeak,
    make_manifest,
    make_synthetic,
    make_voices,
    manifest_hash,
    noise_stretches,
    read_clip,
    read_manifest,
    silence_clips,
    wav_fault,
    which_split,
    work_dir,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bed/060cd039_nohash_0.wav", "val"),
        ("bed/16db1582_nohash_0.wav", "val"),
        ("bed/171b56dc_nohash_0.wav", "val"),
        ("bed/0ea0e2f4_nohash_1.wav", "test"),
        ("bed/1528225c_nohash_3.wav", "test"),
    ],
)
def test_rule_agrees_with_names_of_the_official_lists(name, expected):
    assert which_split(name) == expected


def test_rule_gives_about_a_tenth_to_val_and_test():
    rng = np.random.default_rng(0)
    splits = pd.Series(
        [which_split(f"{rng.bytes(4).hex()}_nohash_0.wav") for _ in range(5_000)]
    ).value_counts(normalize=True)
    assert splits["val"] == pytest.approx(0.1, abs=0.02)
    assert splits["test"] == pytest.approx(0.1, abs=0.02)


def test_work_dir_keeps_profiles_apart():
    assert (
        len({work_dir(c, p) for c in ("synthetic", "data/raw/mine") for p in ("smoke", "sample", "full")})
        == 6
    )
    with pytest.raises(CorpusError, match="PROFILE=huge"):
        work_dir("synthetic", "huge")


def test_voices_are_different_and_seeded():
    voices = make_voices(60, seed=3)
    assert voices == make_voices(60, seed=3) != make_voices(60, seed=4)
    assert len({v.speaker for v in voices}) == len({v.name for v in voices}) == 60
    assert {which_split(v.speaker) for v in voices} == {"train", "val", "test"}


def test_espeak_refuses_an_unknown_voice():
    with pytest.raises(CorpusError, match="no voice martian"):
        load_espeak()("yes", "martian")


@pytest.mark.parametrize(("exponent", "slope_db"), [(0, 0), (1, -3), (2, -6)])
def test_coloured_noise_falls_with_frequency(exponent, slope_db):
    power = np.abs(np.fft.rfft(coloured_noise(2**18, exponent, np.random.default_rng(0)))) ** 2
    octave = [10 * np.log10(power[2**k : 2 ** (k + 1)].mean()) for k in (13, 14)]
    assert octave[1] - octave[0] == pytest.approx(slope_db, abs=0.3)


def test_synthetic_corpus(corpus):
    wavs = sorted(corpus.glob("train/audio/[!_]*/*.wav"))
    assert {p.parent.name for p in wavs} == set(WORDS)
    assert len(wavs) == 20 * len(WORDS)
    assert not any(wav_fault(p) for p in [*wavs, *corpus.glob("test/audio/*.wav")])
    lengths = np.array([soundfile.info(p).frames for p in wavs])
    assert lengths.max() == CLIP_SAMPLES and 0.03 < (lengths < CLIP_SAMPLES).mean() < 0.2
    solution = pd.read_csv(corpus / "solution.csv")
    assert set(solution.fname) == {p.name for p in corpus.glob("test/audio/*.wav")}
    assert set(solution.label) == set(LABELS) and set(solution.Usage) == {"Public", "Private"}


def test_synthetic_corpus_is_seeded_and_goes_on_after_a_stop(corpus, tmp_path):
    again = tmp_path / corpus.name
    shutil.copytree(corpus, again)
    for path in [
        again / ".complete",
        *sorted(again.glob("train/audio/[a-f]*/*.wav")),
        *again.glob("test/audio/clip_[0-7]*.wav"),
    ]:
        path.unlink()
    make_synthetic(again, "smoke", seed=0)
    for path in corpus.rglob("*.wav"):
        assert path.read_bytes() == (again / path.relative_to(corpus)).read_bytes(), path


def test_manifest(corpus, tmp_path):
    manifest = make_manifest(corpus, tmp_path, "sample")
    spoken = manifest[manifest.speaker != ""]
    assert len(spoken) == 600
    assert spoken.groupby("speaker").split.nunique().max() == 1
    assert (spoken.split == spoken.path.map(which_split)).all()
    assert set(manifest.label) == set(LABELS)
    largest = manifest[manifest["sample"]].groupby(["split", "label"]).size().groupby("split").max()
    assert all(largest[split] <= size for split, size in SAMPLE_SIZES.items())
    before = (tmp_path / "manifest.csv").stat().st_mtime_ns
    assert manifest_hash(make_manifest(corpus, tmp_path, "sample")) == manifest_hash(manifest)
    assert (tmp_path / "manifest.csv").stat().st_mtime_ns == before, "an unchanged corpus was scanned again"


def test_manifest_notices_a_new_clip(small_corpus, tmp_path):
    first = make_manifest(small_corpus, tmp_path)
    shutil.copy(first.path[0], small_corpus / "train/audio/yes/0f0f0f0f_nohash_0.wav")
    assert len(make_manifest(small_corpus, tmp_path)) == len(first) + 1


def test_no_second_of_noise_is_in_two_splits(corpus):
    silence = silence_clips(noise_stretches(corpus), count=500)
    heard = {}
    for row in silence.itertuples():
        for second in {row.start // 800, (row.start + CLIP_SAMPLES - 1) // 800}:
            assert heard.setdefault((row.path, second), row.split) == row.split
    assert set(silence.split) == {"train", "val", "test"}
    assert silence.gain.between(0, 1).all()


def test_lists_decide_and_missing_names_are_told(small_corpus, tmp_path, capsys):
    names = sorted(p.name for p in small_corpus.glob("train/audio/yes/*.wav"))
    for file, name in (("validation_list.txt", names[0]), ("testing_list.txt", names[1])):
        (small_corpus / "train" / file).write_text(f"yes/{name}\nbed/{name}\nyes/gone_nohash_0.wav\n")
    manifest = make_manifest(small_corpus, tmp_path)
    speakers = manifest[manifest.speaker != ""].groupby("split").speaker.unique()
    assert list(speakers["val"]) == [names[0][:8]] and list(speakers["test"]) == [names[1][:8]]
    assert "yes/gone_nohash_0.wav" in capsys.readouterr().out


def bad_wavs(folder, good):
    """Six files that are not 16 kHz 16-bit mono wavs, with a word of the reason for each."""
    pcm, _ = soundfile.read(good)
    soundfile.write(folder / "stereo_nohash_0.wav", np.stack([pcm, pcm], 1), 16_000, subtype="PCM_16")
    soundfile.write(folder / "eightbit_nohash_0.wav", pcm, 16_000, subtype="PCM_U8")
    soundfile.write(folder / "cd_nohash_0.wav", pcm, 44_100, subtype="PCM_16")
    (folder / "truncated_nohash_0.wav").write_bytes(good.read_bytes()[:9_000])
    (folder / "text_nohash_0.wav").write_text("this is not a recording")
    (folder / "empty_nohash_0.wav").touch()
    soundfile.write(folder / "nothing_nohash_0.wav", pcm[:0], 16_000, subtype="PCM_16")
    reasons = {
        "stereo": "2 channel",
        "eightbit": "8 bits",
        "cd": "44,100",
        "truncated": "truncated",
        "text": "not a PCM wav",
    }
    return reasons | {"empty": "not a PCM wav", "nothing": "no samples"}


def test_bad_files_are_listed_and_the_rest_goes_on(small_corpus, tmp_path):
    reasons = bad_wavs(small_corpus / "train/audio/yes", next(small_corpus.glob("train/audio/yes/*.wav")))
    manifest = make_manifest(small_corpus, tmp_path)
    assert (manifest.speaker != "").sum() == 20
    skipped = pd.read_csv(tmp_path / "skipped.csv")
    assert len(skipped) == len(reasons)
    for path, reason in skipped.itertuples(index=False):
        assert reasons[path.split("/")[-1].split("_")[0]] in reason


@pytest.mark.parametrize("name", ["stereo", "cd", "text", "empty", "missing"])
def test_reading_a_bad_clip_names_it(small_corpus, name):
    folder = small_corpus / "train/audio/yes"
    bad_wavs(folder, next(folder.glob("*.wav")))
    with pytest.raises(CorpusError, match=f"{name}_nohash_0.wav"):
        read_clip(folder / f"{name}_nohash_0.wav")


def test_short_clips_are_padded_and_long_ones_cut(tmp_path):
    ramp = np.linspace(0.1, 0.5, 40_000, dtype="float32")
    soundfile.write(tmp_path / "long.wav", ramp, 16_000, subtype="PCM_16")
    soundfile.write(tmp_path / "short.wav", ramp[:5_000], 16_000, subtype="PCM_16")
    np.testing.assert_allclose(
        read_clip(tmp_path / "long.wav", 20_000, 0.5), 0.5 * ramp[20_000:36_000], atol=1e-4
    )
    short = read_clip(tmp_path / "short.wav")
    assert short.shape == (CLIP_SAMPLES,) and not short[5_000:].any() and short[4_999] > 0


def test_errors_name_the_way_out(small_corpus, tmp_path):
    with pytest.raises(CorpusError, match="nowhere: there is no such folder. Use CORPUS=synthetic"):
        get_corpus(tmp_path / "nowhere")
    (tmp_path / "empty/train/audio").mkdir(parents=True)
    with pytest.raises(CorpusError, match="no recordings"):
        get_corpus(tmp_path / "empty")
    with pytest.raises(CorpusError, match="0_split.ipynb"):
        read_manifest(tmp_path)
    (small_corpus / "train/testing_list.txt").write_text("yes/gone_nohash_0.wav\n")
    with pytest.raises(CorpusError, match="the other list is missing"):
        make_manifest(small_corpus, tmp_path)
    (small_corpus / "train/audio/validation_list.txt").write_text("yes/gone_nohash_1.wav\n")
    with pytest.raises(CorpusError, match="name no recording"):
        make_manifest(small_corpus, tmp_path)


def test_a_speaker_in_two_splits_is_refused(small_corpus, tmp_path):
    name = next(small_corpus.glob("train/audio/yes/*.wav")).name
    (small_corpus / "train/testing_list.txt").write_text(f"yes/{name}\n")
    (small_corpus / "train/validation_list.txt").write_text(f"bed/{name}\n")
    with pytest.raises(CorpusError, match=f"more than one split, the first: {name[:8]}"):
        make_manifest(small_corpus, tmp_path)


def test_no_noise_and_no_speakers_for_a_split(small_corpus, tmp_path):
    shutil.rmtree(small_corpus / "train/audio/_background_noise_")
    with pytest.raises(CorpusError, match="make_noises"):
        make_manifest(small_corpus, tmp_path)
    for path in list(small_corpus.glob("train/audio/*/*.wav")):
        if which_split(path.name) == "val":
            path.unlink()
    with pytest.raises(CorpusError, match="no clips for val"):
        make_manifest(small_corpus, tmp_path)


def test_real_speech(real_corpus, tmp_path):
    manifest = make_manifest(real_corpus, tmp_path, "full")
    spoken = manifest[manifest.speaker != ""]
    assert spoken.split.value_counts().to_dict() == {"train": 11_593, "val": 1_200, "test": 603}
    assert spoken.groupby("speaker").split.nunique().max() == 1
    assert len(pd.read_csv(tmp_path / "skipped.csv")) == 0
