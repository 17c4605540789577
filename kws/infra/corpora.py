"""Where corpora come from: spoken by a machine, downloaded, or a folder of one's own; and the manifest of one."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import tarfile
import time
import wave
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd
import pooch
import requests
from tqdm import tqdm

from kws.audio import NOISE_WORD, no_recordings, recordings
from kws.infra.arabic import ARABIC_WORDS
from kws.infra.files import (
    CourseError,
    check_number,
    exclusive_write,
    part_of,
    read_csv,
    write_atomically,
    write_csv,
)
from kws.infra.manifest import LISTS, SAMPLE_SIZES, SMOKE_SIZES, keep_manifest
from kws.infra.synthetic import make_synthetic
from kws.split import COMMANDS, HELD_OUT, Place, build_manifest, label_list, read_manifest


def work_dir(corpus: str | Path, profile: str) -> Path:
    """Folder for all that is made from `corpus`: data/<corpus>, with -<profile> where that is not the usual one."""
    if profile not in ("smoke", "sample", "full"):
        raise CourseError(f"PROFILE={profile}: there are smoke, sample and full")
    usual = "sample" if corpus == "synthetic" else "full"
    name = Path(corpus).resolve().name if corpus else ""
    if name in ("", "raw", "data"):
        raise CourseError(f"CORPUS={corpus}: name a corpus, or the folder of one")
    return Path("data") / (name if profile == usual else f"{name}-{profile}")


class Archive(NamedTuple):
    """An official archive: where it is, its SHA-256, its size in bytes and the number of clips in it."""

    url: str
    sha256: str
    bytes: int
    clips: int


HOST = "https://storage.googleapis.com/download.tensorflow.org/data"


ARCHIVES = {
    "mini": Archive(
        f"{HOST}/speech_commands_test_set_v0.02.tar.gz",
        "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
        112_563_277,
        4_890,
    ),
    "v0.01": Archive(
        f"{HOST}/speech_commands_v0.01.tar.gz",
        "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
        1_489_096_277,
        64_727,
    ),
    "v0.02": Archive(
        f"{HOST}/speech_commands_v0.02.tar.gz",
        "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        2_428_923_189,
        105_829,
    ),
}


# Recordings of ten kinds of sound, for extras/tagging, and of Arabic words, for extras/another_language: the last states of
# their authors' repositories that have them. Checksum and size are those of the files that are taken: see `_fetch_github`.
ESC10 = Archive(
    "https://github.com/karoldvl/ESC-10/archive/553c8f1743b9dba6b282e1323c3ca8fa76923448.zip",
    "ce10ba7e2e6886a9b4b0a914db5caa352a080f81b418e7ada1d793fb0df39933",
    41_493_576,
    400,
)
ARABIC = Archive(
    "https://github.com/abdulkaderghandoura/arabic-speech-commands-dataset/archive/72f3438212ff6cf8fbe5ae8068361840646429bd.zip",
    "562e78b16cf038216749e830d5ce406f657103651ba9d74accb7be3658cd478b",
    390_761_306,
    12_000,
)


CONTEST = "tensorflow-speech-recognition-challenge"


def _fetch_rest(url: str, part: Path) -> None:
    """Append to the file `part` what it lacks of `url`; requests.RequestException where the connection fails."""
    done = part.stat().st_size if part.exists() else 0
    wanted = {"Range": f"bytes={done}-", "Accept-Encoding": "identity"}
    with requests.get(url, headers=wanted, stream=True, timeout=30) as response:
        if response.status_code == 416:  # nothing is missing
            return
        response.raise_for_status()
        done = done if response.status_code == 206 else 0  # this server sends everything again
        total = done + int(response.headers.get("Content-Length", 0))
        with (
            open(part, "ab" if done else "wb") as file,
            tqdm(total=total, initial=done, desc=part.stem, unit="B", unit_scale=True, mininterval=1) as bar,
        ):
            for chunk in response.iter_content(2**16):
                bar.update(file.write(chunk))
    if part.stat().st_size < total:
        raise requests.ConnectionError(
            f"the connection ended after {part.stat().st_size:,} of {total:,} bytes"
        )


def resume_download(url: str, part: Path, attempts: int = 5) -> None:
    """Download `url` into the file `part`; what has arrived stays there, to be gone on with, now or in the next call."""
    for attempt in range(attempts):
        try:
            return _fetch_rest(url, part)
        except requests.RequestException as error:
            if attempt == attempts - 1 or isinstance(error, requests.HTTPError):
                raise
            time.sleep(attempt)


def target_path(name: str) -> Path | None:
    """Where a member of an archive belongs in the contest's layout; None for a folder. CourseError for a name that leads out."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise CourseError(f"{name}: a name that leads out of the folder. Such an archive is not unpacked")
    if len(path.parts) < 2:
        return Path("train", *path.parts)
    word, file = path.parts[-2], path.name.replace(".wav.wav", ".wav")
    if word == "_unknown_":
        word, _, file = file.partition("_")
    return Path("train/audio", NOISE_WORD if word == "_silence_" else word, file)


def unpack(archive: str | Path, folder: str | Path) -> None:
    """Unpack a .tar.gz in an official layout into `folder`, which is there when it is whole, or not at all."""
    archive, folder = Path(archive), Path(folder)
    part = part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    size = archive.stat().st_size
    try:
        with (
            open(archive, "rb") as file,
            tqdm.wrapattr(file, "read", size, desc=f"unpacking {archive.name}", mininterval=1) as source,
            tarfile.open(fileobj=source, mode="r|gz") as members,
        ):
            for member in members:
                target = part / target_path(member.name)
                if member.isdir() or target.name.startswith("._"):
                    continue
                if not member.isfile():
                    raise CourseError(f"{archive}: {member.name} is a link. Such an archive is not unpacked")
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as out:
                    shutil.copyfileobj(members.extractfile(member), out)
        part.rename(folder)
    except CourseError:
        raise
    except Exception as error:  # whatever a spoilt archive makes tarfile say
        raise CourseError(
            f"{archive}: unpacking into {folder} stopped ({error}). Nothing of it was kept"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_space(folder: Path, needed: float) -> None:
    """CourseError unless `needed` bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CourseError(
            f"{folder}: {needed / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB are free. Make room there"
        )


def fetch_archive(name: str, raw: str | Path = "data/raw", archives: dict[str, Archive] = ARCHIVES) -> Path:
    """Folder of an official corpus (a key of ARCHIVES) below `raw`: downloaded, checked and unpacked unless it is there.

    Raises CourseError where the disk is too small, the connection fails for good, or the checksum is another one.
    """
    folder, archive = Path(raw) / name, archives[name]
    if folder.exists():
        return folder
    file = folder.parent / Path(archive.url).name
    on_disk = 9 * 4_096  # bytes that a clip of 32 kB takes
    with exclusive_write(folder):
        if folder.exists():  # the run that was waited for has fetched it
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_space(folder.parent, archive.clips * on_disk + (0 if file.exists() else archive.bytes))
        _download(archive, file)
        unpack(file, folder)
    return folder


def _download(archive: Archive, file: Path) -> None:
    """Download an Archive into `file`, unless it is there with the right checksum; CourseError where that fails."""
    part = part_of(file)
    if file.exists() and pooch.file_hash(file) == archive.sha256:
        return
    _receive(archive, part)
    if pooch.file_hash(part) != archive.sha256:
        raise _thrown_away(archive, part)
    part.replace(file)


def _receive(archive: Archive, part: Path) -> None:
    """`resume_download` of an Archive; CourseError, with what to do, where the connection fails for good."""
    try:
        resume_download(archive.url, part)
    except requests.RequestException as error:
        status = getattr(error.response, "status_code", None)
        reason = f"the server answers {status}" if status else "the connection failed"
        raise CourseError(f"{archive.url}: {reason}. Run this again: it goes on where it was") from error


def _thrown_away(archive: Archive, part: Path) -> CourseError:
    """Delete what arrived, and return the error that says so."""
    part.unlink()
    return CourseError(
        f"{archive.url}: what arrived has another checksum, and was thrown away. Run this again"
    )


# The recordings that the committed pages were run on: path in the corpus, the list that names it (val, test, or neither), and
# `sound_digest`. tools/pages_corpus.py writes it.
PAGES = Path(__file__).with_name("pages_corpus.csv.xz")


def sound_digest(path: str | Path) -> str:
    """The first 16 hex digits of the SHA-1 of the PCM in a wav file; none of a file that is no PCM wav.

    64 bits suffice: among 170,000 recordings a wrong match with one of 15,000 has a chance of 2e-10.
    """
    try:
        with open(path, "rb") as file, wave.open(file) as wav:
            return hashlib.sha1(wav.readframes(wav.getnframes())).hexdigest()[:16]
    except (wave.Error, EOFError):
        return ""


def fetch_pages(raw: str | Path = "data/raw", table: str | Path = PAGES) -> Path:
    """Folder of the corpus of the committed pages below `raw`, picked by their sound out of v0.02 and v0.01, which are fetched.

    Clips of test/audio that neither archive holds are left out, and counted: some are noise at another level.

    Raises
    ------
    CourseError: a recording of train/ is in neither archive, or one of these cannot be fetched (see `fetch_archive`).
    """
    folder = Path(raw) / "pages"
    part = part_of(folder)
    with exclusive_write(folder):
        if folder.exists():
            return folder
        clips = read_csv(table, ("path", "list", "sound"), keep_default_na=False, dtype=str)
        shutil.rmtree(part, ignore_errors=True)
        try:
            missing = _pick_recordings(dict(zip(clips.sound, clips.path)), Path(raw), part)
            if lost := [path for path in missing if not path.startswith("test/")]:
                raise CourseError(
                    f"{folder}: {len(lost):,} of {len(clips):,} recordings are in neither archive; the first: {lost[0]}. "
                    f"Delete v0.01 and v0.02 in {raw} if something was taken out of them, and run this again"
                )
            if missing:
                print(
                    f"{folder}: left out {len(missing):,} clip(s) of test/audio, which are in neither archive"
                )
            for split, name in LISTS.items():
                names = clips.path[clips.list == split].str.removeprefix("train/audio/")
                write_atomically(part / "train" / name, "".join(f"{name}\n" for name in names).encode())
            there = clips.path[clips.path.str.startswith("test/") & ~clips.path.isin(missing)]
            names = there.str.removeprefix("test/audio/")
            write_csv(part / "sample_submission.csv", pd.DataFrame({"fname": names, "label": "silence"}))
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _pick_recordings(wanted: dict[str, str], raw: Path, folder: Path) -> list[str]:
    """Copy recordings, {digest: path}, out of the official archives into `folder`; the paths of those that are in neither."""
    for name in ("v0.02", "v0.01"):
        files = sorted(fetch_archive(name, raw).rglob("*.wav")) if wanted else []
        for file in tqdm(files, desc=f"picking from {name}", unit="file", mininterval=1):
            if path := wanted.pop(sound_digest(file), None):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / path)
    return sorted(wanted.values())


def _lay_out(archive: Path, folder: Path, place: Callable[[str], str | None]) -> tuple[list[str], str]:
    """Write the members of GitHub's zip below `folder`, each to `place(name)`, those without a place not at all.

    Returns their names, without the folder that GitHub puts around them, and the SHA-256 of these names and of the contents.
    """
    digest = hashlib.sha256()
    with zipfile.ZipFile(archive) as members:
        inside = {name.partition("/")[2]: name for name in members.namelist()}
        names = sorted(name for name in inside if place(name))
        for name in tqdm(names, desc=f"unpacking {archive.stem}", unit="file", mininterval=1):
            content, target = members.read(inside[name]), folder / place(name)
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return names, digest.hexdigest()


def _fetch_github(
    folder: Path,
    archive: Archive,
    place: Callable[[str], str | None],
    finish: Callable[[Path, list[str]], None],
) -> Path:
    """`folder`, downloaded unless it is there: a repository's files where `place(name)` puts them, None for not at all.

    What GitHub packs is not the same to the byte for ever, so the checksum of `archive` is that of `_lay_out`.
    `finish(folder, names)` does the rest, before the folder gets its name.
    """
    part, new = part_of(folder.with_name(f"{folder.name}.zip")), part_of(folder)
    with exclusive_write(folder):
        if folder.exists():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_space(folder.parent, 3 * archive.bytes)
        _receive(archive, part)
        shutil.rmtree(new, ignore_errors=True)
        try:
            names, digest = _lay_out(part, new, place)
            if digest != archive.sha256:
                raise _thrown_away(archive, part)
            finish(new, names)
            new.rename(folder)
            part.unlink()
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise _thrown_away(archive, part) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def _place_of_sound(name: str) -> str | None:
    """Where a file of ESC-10's repository belongs."""
    match = re.fullmatch(r"\d{3} - [^/]+/([^/]+\.ogg)", name)
    return match and f"audio/{match[1]}"


def _write_esc10_table(folder: Path, names: list[str]) -> None:
    """Write esc10.csv, from names such as "001 - Dog bark/1-100032-A.ogg"."""
    rows = [
        (file, kind[6:].lower().replace(" ", "_"), int(file[0]))
        for kind, file in (name.split("/") for name in names)
    ]
    write_csv(folder / "esc10.csv", pd.DataFrame(sorted(rows), columns=["fname", "label", "fold"]))


def fetch_esc10(raw: str | Path = "data/raw", archive: Archive = ESC10) -> Path:
    """Folder of ESC-10 below `raw`, downloaded unless it is there: audio, and esc10.csv of fname, label, fold (1 to 5).

    400 recordings of 5 s at 44,100 Hz, 40 of each of ten kinds of sound; what was cut from one source is in one fold.
    Source: K. J. Piczak, ESC: Dataset for Environmental Sound Classification, doi:10.1145/2733373.2806390; CC BY 3.0.
    """
    return _fetch_github(Path(raw) / "esc10", archive, _place_of_sound, _write_esc10_table)


def _place_in_contest(name: str) -> str | None:
    """Where a file of the Arabic Speech Commands' repository belongs in the contest's layout."""
    if match := re.fullmatch(r"dataset/([a-z ]+)/(\d+)_NO_(\d+)\.wav", name):
        return f"train/audio/{match[1]}/{match[2]}_nohash_{int(match[3])}.wav"
    if match := re.fullmatch(r"background_noise/((?:boiler|washing_machine)\.wav)", name):
        return f"train/audio/{NOISE_WORD}/{match[1]}"
    return {"val.csv": "train/validation_list.txt", "test.csv": "train/testing_list.txt"}.get(name)


def _write_lists(folder: Path, names: list[str]) -> None:
    """Turn the tables of the Arabic Speech Commands' split into the contest's lists, where they lie."""
    for path in (folder / _place_in_contest(name) for name in ("val.csv", "test.csv")):
        places = read_csv(path, ("file",)).file.map(_place_in_contest)
        write_atomically(
            path, "".join(place.removeprefix("train/audio/") + "\n" for place in places).encode()
        )


def fetch_arabic(raw: str | Path = "data/raw", archive: Archive = ARABIC) -> Path:
    """Folder of the Arabic Speech Commands below `raw`, downloaded unless it is there, in the contest's layout.

    12,000 clips of a second: 40 words (`ARABIC_WORDS`) by 30 speakers, ten times each. The lists are the data set's own split:
    18, 6 and 6 speakers. Of its eight noises the two shortest, 85 and 104 s, are taken.
    Source: Ghandoura, Hjabo and Al Dakkak, doi:10.1016/j.engappai.2021.104267; CC BY 4.0.
    """
    return _fetch_github(Path(raw) / "arabic", archive, _place_in_contest, _write_lists)


def fetch_kaggle(raw: str | Path = "data/raw") -> Path:
    """Folder of the contest's data below `raw`, by the command kaggle; CourseError, with what to do, where that fails."""
    folder = Path(raw) / "kaggle"
    if folder.exists():
        return folder
    if not shutil.which("kaggle") or not importlib.util.find_spec("py7zr"):
        raise CourseError(
            "the command kaggle, or what unpacks its archives, is missing: pip install kaggle py7zr"
        )
    with exclusive_write(folder):
        if folder.exists():  # the run that was waited for has fetched it
            return folder
        archive = folder.with_name(f"{CONTEST}.zip")
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_space(folder.parent, 10e9 if archive.exists() else 14e9)
        command = ["kaggle", "competitions", "download", "-c", CONTEST, "-p", str(folder.parent)]
        said = ""
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            for line in process.stdout:
                said = line.strip() or said
                print(said, end="\r", flush=True)
        if process.returncode:
            raise CourseError(
                f"kaggle: {said}\nIt needs a token: make one at https://www.kaggle.com/settings/api and save it as "
                "~/.kaggle/access_token (kaggle.json for older versions). The rules have to be accepted, too: "
                f"https://www.kaggle.com/c/{CONTEST}/rules"
            )
        _unpack_kaggle(archive, folder)
    return folder


def _unpack_kaggle(archive: Path, folder: Path) -> None:
    """Unpack the contest's zip of 7z archives into `folder`, which is there when it is whole, or not at all."""
    import py7zr

    part = part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as members:
            members.extractall(part)  # drops ../ and knows no links
        for inner in tqdm(sorted(part.glob("*.7z")), desc=f"unpacking {archive.name}", unit="archive"):
            with py7zr.SevenZipFile(inner) as members:
                for member in members.files:
                    target_path(member.filename)
                    if member.is_symlink:
                        raise CourseError(
                            f"{inner.name}: {member.filename} is a link. Such an archive is not unpacked"
                        )
                members.extractall(part)
            inner.unlink()
        part.rename(folder)
    except CourseError:
        raise
    except Exception as error:  # whatever a spoilt archive makes zipfile and py7zr say
        raise CourseError(
            f"{archive}: unpacking into {folder} stopped ({error}). Nothing of it was kept"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def get_corpus(
    corpus: str | Path = "synthetic", profile: str = "sample", seed: int = 0, raw: str | Path = "data/raw"
) -> Path:
    """Folder of a corpus: spoken (synthetic), downloaded (mini, v0.01, v0.02, pages, arabic, kaggle), or checked if it is a path.

    What is made or downloaded lies below `raw`.

    Raises
    ------
    CourseError: there is no such folder, or it holds no recordings where they are expected.
    """
    check_number("SEED", seed, 0, 2**32)
    if corpus == "synthetic":
        name = work_dir(corpus, profile).name + (f"-seed{seed}" if seed else "")
        return make_synthetic(Path(raw) / name, profile, seed)
    if corpus in ARCHIVES:
        return fetch_archive(corpus, raw)
    if corpus == "pages":
        return fetch_pages(raw)
    if corpus == "arabic":
        return fetch_arabic(raw)
    if corpus == "kaggle":
        return fetch_kaggle(raw)
    folder = Path(corpus)
    if not folder.is_dir():
        raise CourseError(
            f"{corpus}: there is no such folder. "
            f"Use CORPUS=synthetic, {', '.join(ARCHIVES)}, pages, arabic, kaggle, or the path of a corpus"
        )
    if not recordings(folder):
        raise no_recordings(folder)
    return folder


def commands_of(corpus: str | Path) -> tuple[str, ...]:
    """The commands of a corpus where nobody names others: all words of the Arabic Speech Commands, else the contest's ten."""
    return tuple(ARABIC_WORDS) if Path(corpus).name == "arabic" else COMMANDS


def make_manifest(
    folder: str | Path,
    work: str | Path,
    profile: str = "sample",
    seed: int = 0,
    words: Sequence[str] = COMMANDS,
    held_out: Sequence[str] = HELD_OUT,
) -> Place:
    """The Place of the manifest of the corpus in `folder`, which is written to `work`, or read back from there.

    `words` are the commands; of the unknown words training never hears those of `held_out`. Beside manifest.csv there are
    labels.txt and skipped.csv. The profile smoke keeps the sample only.
    """
    sizes = SMOKE_SIZES if profile == "smoke" else SAMPLE_SIZES
    settings = {"profile": profile, "seed": seed, "words": words, "held_out": held_out}
    build = partial(build_manifest, folder, words, held_out, sizes, seed)
    return keep_manifest(folder, work, settings, label_list(words), build)


def open_place(corpus: str | Path = "synthetic", profile: str = "sample", seed: int = 0) -> Place:
    """The Place of a corpus whose manifest notebook 0 has made: working folder, recordings, manifest and its fingerprint.

    Raises
    ------
    CourseError: there is no manifest yet, or no corpus.
    """
    work = work_dir(corpus, profile)
    return Place.of(work, read_manifest(work), get_corpus(corpus, profile, seed))
