"""Notebook 0: labels, speakers, the split, copies, silence, the manifest."""

import json
import shutil

import keras
import numpy as np
import pandas as pd
import pytest
import soundfile

from kws.audio import CLIP_SAMPLES, coloured_noise, read_clip, write_wav
from kws.infra.corpora import get_corpus, make_manifest
from kws.infra.files import CourseError
from kws.infra.manifest import (
    SAMPLE_SIZES,
    corpus_files,
    draw_sample,
    export_folders,
    list_files,
    noise_stretches,
    parse_words,
    read_lists,
)
from kws.infra.synthetic import load_espeak, make_voices, utter
from kws.split import (
    LABELS,
    Place,
    is_out_of_vocabulary,
    label_list,
    labels_of,
    manifest_hash,
    read_manifest,
    silence_clips,
    speaker_of,
    which_split,
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


def test_manifest(corpus, tmp_path):
    manifest = make_manifest(corpus, tmp_path, "sample").manifest
    spoken = manifest[manifest.speaker != ""]
    assert len(spoken) == 600
    sides = spoken.split.replace("held", "train").groupby(spoken.speaker).nunique()
    assert sides.max() == 1
    assert (spoken.split.replace("held", "train") == spoken.path.map(which_split)).all()
    assert labels_of(manifest) == LABELS and set(manifest.label) == set(LABELS)
    largest = (
        manifest[manifest["sample"]].groupby(["split", "label"], observed=True).size().groupby("split").max()
    )
    assert all(largest[split] <= size for split, size in SAMPLE_SIZES.items())
    before = (tmp_path / "manifest.csv").stat().st_mtime_ns
    assert make_manifest(corpus, tmp_path, "sample").fingerprint == manifest_hash(manifest)
    assert (tmp_path / "manifest.csv").stat().st_mtime_ns == before, "an unchanged corpus was scanned again"


def test_manifest_notices_a_new_clip(small_corpus, tmp_path):
    first = make_manifest(small_corpus, tmp_path, words=("yes",))
    shutil.copy(first.manifest.path[0], small_corpus / "train/audio/yes/0f0f0f0f_nohash_0.wav")
    second = make_manifest(small_corpus, tmp_path, words=("yes",))
    assert len(second.manifest) == len(first.manifest) + 1 and second.fingerprint != first.fingerprint


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
    manifest = make_manifest(small_corpus, tmp_path, words=("yes",)).manifest
    speakers = manifest[manifest.speaker != ""].groupby("split").speaker.unique()
    assert list(speakers["val"]) == [names[0][:8]] and list(speakers["test"]) == [names[1][:8]]
    assert "yes/gone_nohash_0.wav" in capsys.readouterr().out


def test_bad_files_are_listed_and_the_rest_goes_on(small_corpus, tmp_path):
    folder = small_corpus / "train/audio/yes"
    good = sorted(folder.glob("*.wav"))[0].read_bytes()
    (folder / "truncated_nohash_0.wav").write_bytes(good[:9_000])
    (folder / "text_nohash_0.wav").write_text("this is not a recording")
    (folder / "empty_nohash_0.wav").touch()
    manifest = make_manifest(small_corpus, tmp_path, words=("yes",)).manifest
    assert (manifest.speaker != "").sum() == 20
    skipped = pd.read_csv(tmp_path / "skipped.csv").set_index("path").reason
    reasons = {
        "truncated": "truncated: 4,478 of ",
        "text": "not a PCM wav file",
        "empty": "not a PCM wav file",
    }
    assert len(skipped) == len(reasons)
    for name, reason in reasons.items():
        assert skipped[(folder / f"{name}_nohash_0.wav").as_posix()].startswith(reason)


def test_errors_name_the_way_out(small_corpus, tmp_path):
    with pytest.raises(CourseError, match="0_split.ipynb"):
        read_manifest(tmp_path)
    (small_corpus / "train/testing_list.txt").write_text("yes/gone_nohash_0.wav\n")
    with pytest.raises(CourseError, match="the other list is missing"):
        make_manifest(small_corpus, tmp_path, words=("yes",))
    (small_corpus / "train/audio/validation_list.txt").write_text("yes/gone_nohash_1.wav\n")
    with pytest.raises(CourseError, match="name no recording"):
        make_manifest(small_corpus, tmp_path, words=("yes",))


def test_where_lists_may_lie(tmp_path):
    assert list_files(tmp_path) == {} == read_lists(tmp_path)
    inner = tmp_path / "train/audio"
    inner.mkdir(parents=True)
    (tmp_path / "validation_list.txt").write_text("yes/a_nohash_0.wav\n\n")
    with pytest.raises(CourseError, match="validation_list.txt: the other list is missing"):
        list_files(tmp_path)
    (inner / "testing_list.txt").write_text("yes\\\u0061\u0308_nohash_0.wav\n", encoding="utf-8")
    assert list_files(tmp_path) == {
        "val": tmp_path / "validation_list.txt",
        "test": inner / "testing_list.txt",
    }
    assert read_lists(tmp_path) == {"yes/a_nohash_0.wav": "val", "yes/\u00e4_nohash_0.wav": "test"}


def test_files_that_decide_a_manifest(small_corpus, tmp_path):
    before = corpus_files(small_corpus)
    assert len(before) == 20 + 6
    (small_corpus / "test/audio").mkdir(parents=True)
    for name in ("test/audio/clip_0.wav", "train/audio/README.md", "train/audio/yes/._x.wav"):
        (small_corpus / name).touch()
    assert corpus_files(small_corpus) == before
    for name in ("train/validation_list.txt", "train/testing_list.txt", "train/audio/yes/new_nohash_0.wav"):
        (small_corpus / name).touch()
    assert len(corpus_files(small_corpus)) == 29


def test_a_speaker_in_two_splits_is_refused(small_corpus, tmp_path):
    name = next(small_corpus.glob("train/audio/yes/*.wav")).name
    (small_corpus / "train/testing_list.txt").write_text(f"yes/{name}\n")
    (small_corpus / "train/validation_list.txt").write_text(f"bed/{name}\n")
    with pytest.raises(CourseError, match=f"more than one split, the first: {name[:8]}"):
        make_manifest(small_corpus, tmp_path, words=("yes",))


def test_no_noise_and_no_speakers_for_a_split(small_corpus, tmp_path):
    shutil.rmtree(small_corpus / "train/audio/_background_noise_")
    with pytest.raises(CourseError, match="make_noises"):
        make_manifest(small_corpus, tmp_path, words=("yes",))
    for path in list(small_corpus.glob("train/audio/*/*.wav")):
        if which_split(path.name) == "val":
            path.unlink()
    with pytest.raises(CourseError, match="no clips for val"):
        make_manifest(small_corpus, tmp_path, words=("yes",))


@pytest.mark.full  # unpacking takes half a minute
def test_real_speech(real_corpus, tmp_path):
    manifest = make_manifest(real_corpus, tmp_path, "full").manifest
    spoken = manifest[manifest.speaker != ""]
    counts = spoken.split.value_counts()
    assert counts["train"] + counts["held"] == 11_593 and (counts["val"], counts["test"]) == (1_200, 603)
    assert spoken.split.replace("held", "train").groupby(spoken.speaker).nunique().max() == 1
    assert len(pd.read_csv(tmp_path / "skipped.csv")) == 0
    unseen = manifest[is_out_of_vocabulary(manifest)]
    assert {"eight", "one", "two", "zero"} <= set(unseen.word) and (unseen.split == "val").sum() > 50


def test_labels():
    assert label_list(("computer", "lights")) == ("silence", "unknown", "computer", "lights")
    for words in ((), ("yes", "yes"), ("silence",), ("unknown", "yes")):
        with pytest.raises(CourseError, match="name one or more"):
            label_list(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("on off", ("on", "off")),
        (" on   off ", ("on", "off")),
        ("on,off", ("on", "off")),
        ("turn on, turn off,", ("turn on", "turn off")),
        ('"turn on" off', ("turn on", "off")),
        ('"turn on", off', ("turn on", "off")),
        ('"on"', ("on",)),
        ("", ()),
        (" , ", ()),
    ],
)
def test_words_of_a_text(text, words):
    assert parse_words(text) == words


@pytest.mark.parametrize(
    ("name", "speaker"),
    [
        ("0132a06d_nohash_3", "0132a06d"),
        ("anna_3", "anna"),
        ("anna-lena 12", "anna-lena"),
        ("anna", "anna"),
        ("anna (3)", "anna"),
        ("_3", "_3"),
        ("Anna_3", "anna"),
        ("ANNA_nohash_1", "anna"),
        ("Rene\u0301 2", "ren\u00e9"),
        ("ren\u00e9-7", "ren\u00e9"),
        ("STRASSE_1", "strasse"),
        ("Stra\u00dfe_1", "strasse"),
    ],
)
def test_speaker_of(name, speaker):
    assert speaker_of(f"lights/{name}.wav") == speaker


@pytest.fixture(scope="module")
def own_corpus(tmp_path_factory):
    """Folders of own words, recorded by twenty voices: no train/audio, names without _nohash_."""
    folder, say = tmp_path_factory.mktemp("own") / "mine", load_espeak()
    for i, voice in enumerate(make_voices(20)):
        for word in ("computer", "lights", "window", "music", "two"):
            clip = utter(say, voice, word, np.random.default_rng(i))
            write_wav(folder / word / f"{voice.speaker}_{i}.wav", clip)
    noise = coloured_noise(30 * 16_000, 1, np.random.default_rng(0))
    write_wav(folder / "_background_noise_/room.wav", 0.05 * noise)
    return folder


def test_own_words(own_corpus, tmp_path):
    place = make_manifest(get_corpus(own_corpus), tmp_path, words=("computer", "lights"))
    manifest = place.manifest
    assert (place.work, place.folder) == (tmp_path, own_corpus)
    assert labels_of(manifest) == labels_of(read_manifest(tmp_path)) == label_list(("computer", "lights"))
    assert (tmp_path / "labels.txt").read_text() == "silence\nunknown\ncomputer\nlights\n"
    assert set(manifest.word[manifest.label == "unknown"]) == {"window", "music", "two"}
    assert set(manifest.word[is_out_of_vocabulary(manifest)]) == {"two"}
    assert not is_out_of_vocabulary(manifest, ("train", "held")).any(), (
        "a model that has learned from held words knows them"
    )
    other = make_manifest(own_corpus, tmp_path, words=("lights", "computer"))
    assert labels_of(other.manifest)[2:] == ("lights", "computer"), "other words, the old manifest"
    written = (tmp_path / "manifest.csv").stat().st_mtime_ns
    (own_corpus.parent / "neighbour.wav").touch()
    make_manifest(own_corpus, tmp_path, words=("lights", "computer"))
    assert (tmp_path / "manifest.csv").stat().st_mtime_ns == written, "the neighbours were looked at"
    assert other.fingerprint != place.fingerprint


def test_a_command_without_recordings_is_told(own_corpus, tmp_path):
    with pytest.raises(CourseError, match="no recordings of lamp. Its words: computer, lights"):
        make_manifest(own_corpus, tmp_path, words=("computer", "lamp"))
    with pytest.raises(CourseError, match="Set WORDS"):
        make_manifest(own_corpus, tmp_path)


def test_two_speakers_are_split_by_lists(own_corpus, tmp_path):
    folder = tmp_path / "mine"
    names = [name for name in ("ann", "bea", "cleo", "dan", "eve", "finn") if which_split(name) == "train"][
        :3
    ]
    for i, name in enumerate(names):
        for word in ("computer", "window"):
            path = folder / word / f"{name}_0.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sorted(own_corpus.glob(f"{word}/*.wav"))[i], path)
    shutil.copytree(own_corpus / "_background_noise_", folder / "_background_noise_")
    with pytest.raises(CourseError, match="validation_list.txt"):
        make_manifest(folder, tmp_path / "work", words=("computer",))
    for name, file in zip(names, ("validation_list.txt", "testing_list.txt")):
        (folder / file).write_text(f"computer/{name}_0.wav\nwindow/{name}_0.wav\n")
    manifest = make_manifest(folder, tmp_path / "work", words=("computer",)).manifest
    speakers = manifest[manifest.speaker != ""].groupby("speaker").split.first()
    assert speakers.to_dict() == dict(zip(names, ("val", "test", "train")))


def test_copies_stay_on_the_side_that_tests(small_corpus, tmp_path):
    by_split = {which_split(path.name): path for path in sorted(small_corpus.glob("train/audio/yes/*.wav"))}
    speakers = iter(make_voices(30, seed=9))
    new = {split: next(v.speaker for v in speakers if which_split(v.speaker) == split) for split in by_split}
    pcm, _ = soundfile.read(by_split["test"], dtype="int16")
    padded = np.pad(pcm[:12_000], (0, 4_000))  # the same sound, with zeros after it
    soundfile.write(by_split["test"], pcm[:12_000], 16_000, subtype="PCM_16")
    twins = {
        split: small_corpus / f"train/audio/bed/{speaker}_nohash_0.wav" for split, speaker in new.items()
    }
    for path in twins.values():
        soundfile.write(path, padded, 16_000, subtype="PCM_16")
    manifest = make_manifest(small_corpus, tmp_path, words=("yes",)).manifest
    there = set(manifest.path)
    assert by_split["test"].as_posix() in there and twins["test"].as_posix() in there
    assert not {twins["train"].as_posix(), twins["val"].as_posix()} & there
    reasons = pd.read_csv(tmp_path / "skipped.csv").set_index("path").reason
    assert set(reasons.index) == {twins["train"].as_posix(), twins["val"].as_posix()}
    assert reasons.str.startswith("the same sound as ").all()


def test_held_out_words_are_in_no_training_clip(corpus, tmp_path):
    manifest = make_manifest(corpus, tmp_path, held_out=("bed", "wow", "yes")).manifest
    train, held = (set(manifest.word[manifest.split == split]) for split in ("train", "held"))
    assert held == {"bed", "wow"}, "a command was held out, or a word was not"
    assert not held & train and "yes" in train
    unseen = manifest[is_out_of_vocabulary(manifest)]
    assert set(unseen.word) == held and {"val", "test"} <= set(unseen.split)
    assert not manifest["sample"][manifest.split == "held"].any()
    assert (make_manifest(corpus, tmp_path, held_out=()).manifest.split != "held").all()


def test_one_recording_is_heard_in_the_test_only(corpus):
    stretches = noise_stretches(corpus)
    of = stretches.groupby("path").split.agg(list)
    alone = [path for path, splits in of.items() if splits == ["test"]]
    assert len(alone) == 1 and len(of) == 6
    assert all(splits == ["train", "val", "test"] for path, splits in of.items() if path not in alone)
    assert stretches[stretches.path == alone[0]][["start", "stop"]].values.tolist() == [[0, 20 * 16_000]]


def test_noise_of_single_seconds_goes_whole_to_one_side(tmp_path):
    for i in range(20):
        write_wav(tmp_path / f"_background_noise_/{i:02}.wav", np.full(20_000, 0.1))
    stretches = noise_stretches(tmp_path)
    assert stretches.split.tolist() == ["train"] * 16 + ["val"] * 2 + ["test"] * 2
    assert (stretches.start == 0).all() and (stretches.stop == 16_000).all()
    silence = silence_clips(stretches, count=50)
    assert silence.groupby("path").split.nunique().max() == 1


@pytest.mark.parametrize(
    ("seconds", "splits"),
    [
        ((1, 1, 1), ["train", "val", "test"]),
        ((2, 1, 3, 1), ["train", "train", "val", "test"]),
        ((10,), ["train", "val", "test"]),
        ((1, 10), ["test", "train", "val", "test"]),
        ((1,), None),
        ((1, 1), None),
        ((9, 9), None),
        ((0.9, 0.9, 0.9, 0.9), None),
    ],
)
def test_how_much_noise_suffices(tmp_path, seconds, splits):
    for i, length in enumerate(seconds):
        write_wav(tmp_path / f"_background_noise_/{i}.wav", np.full(int(16_000 * length), 0.1))
    if splits:
        stretches = noise_stretches(tmp_path)
        assert stretches.split.tolist() == splits
        assert ((stretches.stop - stretches.start) // 16_000).sum() == sum(seconds)
        assert set(silence_clips(stretches, 10).split) == {"train", "val", "test"}
    else:
        with pytest.raises(CourseError, match="ten seconds or more there, or three of at least a second"):
            noise_stretches(tmp_path)


def test_sample_is_drawn_from_its_seed(manifest):
    sizes = {"train": 5, "val": 3, "test": 3}
    one, again, other = (draw_sample(manifest, sizes, seed) for seed in (1, 1, 2))
    assert (one == again).all() and not (one == other).all()
    assert manifest[one].groupby(["split", "label"], observed=True).size().loc["train"].max() == 5


def test_folders_for_keras(manifest, tmp_path):
    rows = manifest[manifest["sample"]]
    folder = export_folders(rows, tmp_path / "main")
    for split in ("train", "val", "test"):
        assert sorted(p.name for p in (folder / split).iterdir()) == sorted(LABELS)
        for label in LABELS:
            wanted = ((rows.split == split) & (rows.label == label)).sum()
            assert len(list((folder / split / label).iterdir())) == wanted, (split, label)
    row = rows[(rows.split == "val") & (rows.label == "yes")].iloc[0]
    linked = next((folder / "val/yes").glob(f"*{row.path.split('/')[-1]}"))
    np.testing.assert_array_equal(read_clip(linked), read_clip(row.path))
    silence = rows[(rows.split == "val") & (rows.label == "silence")]
    expected = [read_clip(r.path, r.start, r.gain) for r in silence.itertuples()]
    for path in (folder / "val/silence").iterdir():
        assert min(np.abs(read_clip(path) - clip).max() for clip in expected) < 1e-4
    stamp = linked.lstat().st_mtime_ns
    assert json.loads((folder / "made.json").read_text())["manifest"] == manifest_hash(rows)
    export_folders(rows, folder)
    assert linked.lstat().st_mtime_ns == stamp, "laid out again"
    export_folders(rows[rows.label != "go"], folder)
    assert not list(folder.glob("*/go/*.wav")) and list(folder.glob("*/yes/*.wav"))
    export_folders(rows, folder)
    dataset = keras.utils.audio_dataset_from_directory(
        folder / "val", output_sequence_length=CLIP_SAMPLES, class_names=list(LABELS), verbose=False
    )
    assert sum(len(numbers) for _, numbers in dataset) == (rows.split == "val").sum()


def test_folders_have_copies_where_links_are_not_allowed(manifest, tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError("privilege not held")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    folder = export_folders(manifest[manifest.label == "yes"], tmp_path / "main")
    paths = list(folder.glob("*/yes/*.wav"))
    assert len(paths) == (manifest.label == "yes").sum() and not any(p.is_symlink() for p in paths)


def test_folders_spoil_nothing(manifest, tmp_path):
    paths = []
    for word, name in (
        ("turn", "off_p_0.wav"),
        ("turn_off", "p_0.wav"),
    ):  # alike once word and name are joined
        path = tmp_path / "raw" / word / name
        write_wav(path, np.full(16_000, 0.1 * (1 + len(paths))))
        paths.append(path)
    rows = manifest[manifest.label == "unknown"][:2].assign(path=[p.as_posix() for p in paths], split="val")
    rows["word"] = ["turn", "turn_off"]
    before = [path.read_bytes() for path in paths]
    folder = export_folders(rows, tmp_path / "main")
    assert len(list(folder.glob("val/unknown/*.wav"))) == 2
    assert [path.read_bytes() for path in paths] == before
    (tmp_path / "thesis").mkdir()
    with pytest.raises(CourseError, match="was not made by export_folders"):
        export_folders(rows, tmp_path / "thesis")


def test_two_corpora_of_one_name_do_not_share_a_folder(small_corpus, corpus, tmp_path):
    make_manifest(corpus, tmp_path / "work")
    with pytest.raises(CourseError, match="belongs to .*synthetic-smoke: give one of the two"):
        make_manifest(small_corpus, tmp_path / "work", words=("yes",))


def test_a_half_written_manifest_is_noticed_and_made_again(corpus, tmp_path):
    first = make_manifest(corpus, tmp_path)
    (tmp_path / "labels.txt").write_text("silence\nunknown\ncomputer\n")
    with pytest.raises(CourseError, match="does not know"):
        read_manifest(tmp_path)
    for spoil in (
        lambda: (tmp_path / "manifest.csv").unlink(),
        lambda: (tmp_path / "manifest.json").write_text(""),
    ):
        spoil()
        assert make_manifest(corpus, tmp_path).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("old", "new"), [(",0,1.0\n", ",-5,1.0\n"), (",0,1.0\n", ",0,inf\n"), (",0,1.0\n", ",x,1.0\n")]
)
def test_a_manifest_with_what_no_clip_has(work, tmp_path, old, new):
    for name in ("manifest.csv", "labels.txt", "manifest.json"):
        shutil.copy(work / name, tmp_path)
    whole = read_manifest(tmp_path)
    text = (tmp_path / "manifest.csv").read_text()
    (tmp_path / "manifest.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(CourseError, match="manifest.csv: .*elete it"):
        read_manifest(tmp_path)
    assert Place.of(tmp_path, whole) == (tmp_path, None, whole, manifest_hash(whole))


def test_the_hash_of_a_manifest(manifest):
    one = manifest_hash(manifest)
    assert len(one) == 12 and one == manifest_hash(manifest.copy())
    other = manifest.copy()
    other.loc[other.index[-1], "gain"] += 0.001
    turned = manifest.assign(label=manifest.label.cat.reorder_categories(labels_of(manifest)[::-1]))
    changed = manifest.copy()
    changed.attrs = {"revision": "recordings that changed under it"}
    assert len({one, *map(manifest_hash, (other, turned, changed, manifest[:-1]))}) == 5


def test_long_recordings_and_lonely_speakers_are_told(small_corpus, tmp_path, capsys):
    folder = small_corpus / "train/audio/bed"
    for i, path in enumerate(sorted(small_corpus.glob("train/audio/*/*.wav"))):
        shutil.copy(path, folder / f"{path.stem[:8]}x{i}.wav")
    write_wav(folder / "0a0a0a0a_nohash_0.wav", np.full(40_000, 0.1))
    make_manifest(small_corpus, tmp_path, words=("yes",))
    said = capsys.readouterr().out
    assert " recordings are longer than a second" in said and "a speaker of their own" in said
