"""The table of notebook 0 on disk: lists of a split, messages for corpora that cannot be split, and reading it back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from kws.audio import (
    CLIP_SAMPLES,
    NOISE_WORD,
    SAMPLE_RATE,
    as_text,
    audio_folder,
    check_wav,
    no_recordings,
    noise_recordings,
    read_clip,
    recordings,
    same_name,
    write_wav,
)
from kws.infra.files import (
    CourseError,
    exclusive_write,
    file_fingerprint,
    fingerprint,
    is_made,
    link_file,
    part_of,
    read_csv,
    read_json,
    read_text,
    remove,
    write_atomically,
    write_csv,
    write_json,
)

COLUMNS = ("path", "word", "label", "speaker", "split", "sample", "start", "gain")
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}


def parse_words(text: str) -> tuple[str, ...]:
    """Words from a text: separated by commas if there is one, else by spaces; in double quotes a word may have either.

    >>> parse_words("on off"), parse_words("turn on, turn off"), parse_words('"turn on" off')
    (('on', 'off'), ('turn on', 'turn off'), ('turn on', 'off'))
    """
    between = "," if "," in re.sub(r'"[^"]*"', "", text) else r"\s"
    words = re.findall(rf'(?:"[^"]*"|[^"{between}])+', text)
    return tuple(word.strip(' "') for word in words if word.strip(' "'))


# what a corpus brings


def list_files(folder: str | Path) -> dict[str, Path]:
    """The official lists that a corpus brings: {split: path}. CourseError where it brings one of the two."""
    places = [Path(folder) / place for place in ("", "train", "train/audio")]
    lists = {
        split: place / name for split, name in LISTS.items() for place in places if (place / name).exists()
    }
    if len(lists) == 1:
        raise CourseError(
            f"{[*lists.values()][0]}: the other list is missing. Both decide the split, or neither: put it there, or remove this"
        )
    return lists


def read_lists(folder: str | Path) -> dict[str, str]:
    """The official lists as a dict {"<word>/<file>": split}; empty if the corpus brings none."""
    return {
        same_name(line.strip().replace("\\", "/")): split
        for split, path in list_files(folder).items()
        for line in read_text(path).splitlines()
        if line.strip()
    }


def name_in_list(path: str | Path) -> str:
    """A recording as the official lists name it.

    >>> name_in_list("data/raw/mine/bed/0132a06d_nohash_1.wav")
    'bed/0132a06d_nohash_1.wav'
    """
    return same_name("/".join(Path(path).parts[-2:]))


def corpus_files(folder: str | Path) -> list[Path]:
    """All files that decide a manifest: recordings, noise and lists."""
    return [*recordings(folder), *noise_recordings(folder), *list_files(folder).values()]


def checked_recordings(folder: str | Path, labels: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The recordings that can be used: path, word, label, samples, digest of the sound; and the others: path, reason.

    `labels` are silence, unknown and the commands. The label of any other word is unknown.

    Raises
    ------
    CourseError: there are none, or a command has none.
    """
    good, bad = [], []
    paths = recordings(folder)
    if not paths:
        raise no_recordings(folder)
    for path in tqdm(paths, desc="reading recordings", unit="file", mininterval=1):
        fault, samples, digest = check_wav(path)
        if fault:
            bad.append((as_text(path.as_posix()), fault))
        else:
            good.append((path.as_posix(), same_name(path.parent.name), samples, digest))
    if not good:
        raise CourseError(
            f"{folder}: none of {len(paths)} recordings can be used; the first: {' '.join(bad[0])}"
        )
    clips = pd.DataFrame(good, columns=["path", "word", "samples", "digest"])
    clips.insert(2, "label", clips.word.where(clips.word.isin(labels), "unknown"))
    check_clips(clips, labels, folder)
    return clips, pd.DataFrame(bad, columns=["path", "reason"])


def usable_noises(folder: str | Path) -> list[tuple[str, int]]:
    """The recordings of noise that last a second or more: path and whole seconds of each; says which were skipped."""
    found = []
    for path in noise_recordings(folder):
        fault, samples, _ = check_wav(path)
        if fault:
            print(f"skipped {as_text(path)}: {fault}")
        elif samples >= CLIP_SAMPLES:
            found.append((path.as_posix(), samples // SAMPLE_RATE))
    return found


# what cannot be used


def check_labels(labels: Sequence[str]) -> None:
    """CourseError unless there are commands after silence and unknown, each label once."""
    if len(labels) < 3 or len(set(labels)) < len(labels):
        raise CourseError(
            f"commands {' '.join(labels[2:])!r}: name one or more, each once, none of them silence or unknown"
        )


def check_clips(clips: pd.DataFrame, labels: Sequence[str], folder: str | Path) -> None:
    """CourseError where a command has no recordings, or a folder and a label differ in case only. Says how many are long."""
    if missing := [word for word in labels[2:] if word not in set(clips.word)]:
        found = ", ".join(clips.word.unique()[:40])
        raise CourseError(
            f"{folder}: no recordings of {', '.join(missing)}. Its words: {found}. Set WORDS to those you want"
        )
    small = {label.casefold(): label for label in labels}
    for word in sorted(set(clips.word) - set(labels)):
        if label := small.get(word.casefold()):
            raise CourseError(
                f"{folder}: {word} and the label {label} differ in case only. Rename the folder {word}"
            )
    if long := (clips.samples > CLIP_SAMPLES).sum():
        print(f"{long} recordings are longer than a second; only their first second is used")


def check_names(lists: dict[str, str], clips: pd.DataFrame) -> None:
    """Say how many names of the lists are not among the clips, or that the speakers' names look wrong.

    Raises
    ------
    CourseError: none of the names is.
    """
    missing = sorted(set(lists) - set(clips.path.map(name_in_list)))
    if lists and len(missing) == len(lists):
        raise CourseError(
            f"the lists name no recording of this corpus (the first: {missing[0]}). Remove them to split by rule"
        )
    if missing:
        print(
            f"{len(missing)} of {len(lists)} names in the lists are not among the usable clips; the first: {missing[0]}"
        )
    if not lists and clips.speaker.nunique() > len(clips) / 2:
        print("Most recordings have a speaker of their own. If they have not, name them <speaker>_<n>.wav")


def check_split(clips: pd.DataFrame, lists: dict[str, str]) -> None:
    """CourseError where a speaker is in two splits, a split is empty, or the lists belong to another corpus."""
    check_names(lists, clips)
    crossing = clips.groupby("speaker").split.nunique().loc[lambda n: n > 1]
    if len(crossing):
        many = "speaker is" if len(crossing) == 1 else "speakers are"
        raise CourseError(
            f"{len(crossing)} {many} in more than one split, the first: {crossing.index[0]}. Correct the lists "
            "(a speaker is what comes before _nohash_, or before a number, in a file's name)"
        )
    if empty := {"train", "val", "test"} - set(clips.split):
        raise CourseError(
            f"no clips for {', '.join(sorted(empty))}: {clips.speaker.nunique()} speaker(s) are too few for the rule. Add "
            "speakers, or put the recordings of one into validation_list.txt and of another into testing_list.txt, "
            "as <word>/<file> line by line"
        )


def check_stretches(stretches: pd.DataFrame, folder: str | Path) -> None:
    """CourseError unless there is noise for each of the three splits."""
    if stretches.split.nunique() == 3:
        return
    noises, skipped = audio_folder(folder) / NOISE_WORD, ""
    for path in noise_recordings(folder):
        if fault := check_wav(path)[0]:
            skipped = f" ({path.name} was skipped: {fault})"
    raise CourseError(
        f"{noises}: silence is cut from recordings of noise, and those there do not suffice for three splits{skipped}. Put a "
        "recording of ten seconds or more there, or three of at least a second; or let the course make some: "
        f"from kws.infra.synthetic import make_noises; make_noises({str(noises)!r})"
    )


# parts of the table that are not taught


def noise_stretches(folder: str | Path) -> pd.DataFrame:
    """Where noise may be taken from: DataFrame with path, split, start, stop (samples).

    A recording of ten seconds or more is cut in three, 80, 10 and 10 %; of five or more such recordings the last but one by
    name is whole in the test. Of the shorter ones each is whole in one split.

    Raises
    ------
    CourseError: the recordings do not suffice for three splits: one of ten seconds, or three of a second.
    """
    noises = usable_noises(folder)
    long = [noise for noise in noises if noise[1] >= 10]
    short = [noise for noise in noises if noise[1] < 10]
    rows, tenth = [], max(1, round(len(short) / 10))
    for i, (path, seconds) in enumerate(short):
        split = "test" if i >= len(short) - tenth else "val" if i >= len(short) - 2 * tenth else "train"
        rows.append((path, split, 0, seconds))
    for path, seconds in long:
        tenth = max(1, round(seconds / 10))
        edges = [0, seconds - 2 * tenth, seconds - tenth, seconds]
        if len(long) >= 5 and path == long[-2][0]:
            edges = [0, 0, 0, seconds]
        rows += [(path, split, *edges[i : i + 2]) for i, split in enumerate(("train", "val", "test"))]
    stretches = pd.DataFrame(rows, columns=["path", "split", "start", "stop"])
    stretches = stretches[stretches.stop > stretches.start].reset_index(drop=True)
    check_stretches(stretches, folder)
    return stretches.assign(start=stretches.start * SAMPLE_RATE, stop=stretches.stop * SAMPLE_RATE)


SAMPLE_SIZES = {"train": 240, "val": 60, "test": 60}
SMOKE_SIZES = {"train": 24, "val": 12, "test": 12}


def draw_sample(manifest: pd.DataFrame, sizes: dict[str, int], seed: int = 0) -> pd.Series:
    """Boolean mask of a sample: at most `sizes[split]` random rows of each label in each split."""
    order = np.random.default_rng(seed).permutation(len(manifest))
    shuffled = manifest.iloc[order]
    rank = shuffled.groupby(["split", "label"]).cumcount().reindex(manifest.index)
    return rank < manifest.split.map(sizes)


# the table on disk


def read_manifest(work: str | Path) -> pd.DataFrame:
    """The manifest of a working folder: path, word, label (categorical), speaker, split, sample, start (samples), gain."""
    path, labels = Path(work) / "manifest.csv", Path(work) / "labels.txt"
    if not path.exists() or not labels.exists():
        raise CourseError(
            f"{path}: not there yet. Notebook 0_split.ipynb writes it; run it with the same CORPUS and PROFILE"
        )
    text = {"path": str, "word": str, "label": str, "speaker": str, "split": str}
    kinds = text | {"sample": bool, "start": int, "gain": float}
    manifest = read_csv(path, kinds, keep_default_na=False, dtype=kinds)
    names = read_text(labels).split("\n")[:-1]
    if unknown := set(manifest.label) - set(names) or {name for name in names if names.count(name) > 1}:
        raise CourseError(
            f"{labels} does not know {', '.join(unknown)} of {path}, or names it twice. Run notebook 0_split.ipynb again"
        )
    if (manifest.start < 0).any() or not np.isfinite(manifest.gain).all():
        raise CourseError(
            f"{path}: start or gain that no clip has. Delete it, and run notebook 0_split.ipynb again"
        )
    manifest.attrs["revision"] = read_json(Path(work) / "manifest.json").get("revision", "")
    return manifest.assign(label=pd.Categorical(manifest.label, names))


def labels_of(manifest: pd.DataFrame) -> tuple[str, ...]:
    """The labels of a manifest in their order."""
    return tuple(manifest.label.cat.categories)


def manifest_hash(manifest: pd.DataFrame) -> str:
    """Twelve hex digits that change when any row of a manifest does, the order of its labels, or the recordings behind it."""
    text = manifest.to_csv(index=False) + " ".join(labels_of(manifest)) + manifest.attrs.get("revision", "")
    return fingerprint(text)


class Place(NamedTuple):
    """Where a corpus is worked on: folder of what is made, of the recordings, the manifest, and its hash."""

    work: Path
    folder: Path | None
    manifest: pd.DataFrame
    fingerprint: str

    @classmethod
    def of(cls, work: str | Path, manifest: pd.DataFrame, folder: str | Path | None = None) -> Place:
        """The Place of a manifest, which is hashed here and nowhere else."""
        return cls(Path(work), folder and Path(folder), manifest, manifest_hash(manifest))


def keep_manifest(
    folder: str | Path,
    work: str | Path,
    settings: dict,
    labels: Sequence[str],
    build: Callable[[], tuple[pd.DataFrame, pd.DataFrame]],
) -> Place:
    """The Place of the manifest of a corpus: read back where neither files nor settings have changed, else built and written.

    `build()` returns the table, with a digest of each sound, and a table of what was left out. manifest.csv, labels.txt,
    skipped.csv and a note, manifest.json, are written to `work`. Where a recording has changed under an unchanged name, the
    manifest gets another revision, and so another hash. With the profile smoke only the sample is kept.
    """
    folder, work = Path(folder), Path(work)
    with exclusive_write(work / "manifest.csv"):
        note, corpus = work / "manifest.json", folder.resolve().as_posix()
        known = read_json(note)
        if known.get("corpus", corpus) != corpus:
            raise CourseError(
                f"{work} belongs to {known['corpus']}: give one of the two corpora another name, or delete {work}"
            )
        settings = {"state": fingerprint(*map(file_fingerprint, corpus_files(folder)))} | settings
        if not is_made(note, settings) or not (work / "manifest.csv").exists():
            work.mkdir(parents=True, exist_ok=True)
            known = {key: known[key] for key in ("sounds", "revision") if key in known} | {"corpus": corpus}
            write_json(note, known)
            manifest, left_out = build()
            sounds = _sounds(manifest)
            if known.setdefault("sounds", sounds) != sounds:
                known |= {"sounds": sounds, "revision": sounds[:12]}
            if settings.get("profile") == "smoke":
                manifest = manifest[manifest["sample"]]
            write_csv(work / "skipped.csv", left_out)
            write_atomically(work / "labels.txt", ("\n".join(labels) + "\n").encode())
            write_csv(work / "manifest.csv", manifest[list(COLUMNS)])
            write_json(note, known | settings)
    return Place.of(work, read_manifest(work), folder)


def _sounds(manifest: pd.DataFrame) -> str:
    """A digest of all sounds of a manifest, which has a column digest; of noise, of the recordings it is cut from."""
    silence = manifest.label == "silence"
    noises = [check_wav(path)[2] for path in sorted(set(manifest.path[silence]))]
    return hashlib.sha1(f"{manifest[~silence][['path', 'digest']].to_csv()} {noises}".encode()).hexdigest()


def export_folders(manifest: pd.DataFrame, folder: str | Path) -> Path:
    """Lay a manifest out in `folder`: a folder for each split, in it one for each label; returns `folder`.

    Words are links to the recordings, silence is written.
    """
    folder = Path(folder)
    note, settings = folder / "made.json", {"manifest": manifest_hash(manifest)}
    if is_made(note, settings):
        return folder
    if folder.exists() and not note.exists():
        raise CourseError(f"{folder}: is there, and was not made by export_folders. Name another folder")
    with exclusive_write(folder):
        part = part_of(folder)
        remove(part)
        for split, label in [(s, label) for s in ("train", "val", "test") for label in labels_of(manifest)]:
            (part / split / label).mkdir(parents=True)
        rows = manifest[manifest.split != "held"]
        for row in tqdm(rows.itertuples(), total=len(rows), desc="linking", unit="clip", mininterval=1):
            target = part / row.split / row.label / f"{row.word}_{row.Index}_{Path(row.path).name}"
            if row.label == "silence":
                write_wav(target, read_clip(row.path, row.start, row.gain))
            else:
                link_file(row.path, target)
        write_json(part / "made.json", settings)
        remove(folder)
        part.rename(folder)
    return folder
