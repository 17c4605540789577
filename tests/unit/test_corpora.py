"""Where corpora come from: official ones from a server on this machine, the contest's, and folders of one's own."""

import hashlib
import http.server
import io
import itertools
import os
import re
import stat
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import pytest
from conftest import ROOT

from kws.audio import NOISE_WORD, write_wav
from kws.infra import corpora
from kws.infra.arabic import ARABIC_WORDS
from kws.infra.corpora import (
    ARABIC,
    ARCHIVES,
    CONTEST,
    ESC10,
    PAGES,
    Archive,
    commands_of,
    fetch_arabic,
    fetch_archive,
    fetch_esc10,
    fetch_kaggle,
    fetch_pages,
    get_corpus,
    make_manifest,
    open_place,
    target_path,
    work_dir,
)
from kws.infra.files import CourseError
from kws.infra.synthetic import make_voices
from kws.split import COMMANDS, which_split
from tools.pages_corpus import pages_table


def wav_bytes(tmp_path, i):
    """A wav file of noise, different for each `i`."""
    path = tmp_path / "one.wav"
    write_wav(path, np.random.default_rng(i).uniform(-0.5, 0.5, 16_000))
    return path.read_bytes()


def tar_of(members):
    """A .tar.gz of {name: bytes}, or of {name: TarInfo} for what is no file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Small archives in the official layouts: {name: bytes}."""
    tmp = tmp_path_factory.mktemp("wavs")
    speakers = [voice.speaker for voice in make_voices(20)]
    words = [*COMMANDS, "bed", "two"]
    spoken = {
        f"{word}/{speaker}_nohash_0.wav": wav_bytes(tmp, 100 * i + j)
        for i, word in enumerate(words)
        for j, speaker in enumerate(speakers)
    }
    noise = tmp / "noise.wav"
    write_wav(noise, np.random.default_rng(1).uniform(-0.3, 0.3, 20 * 16_000))
    lists = {"val": b"", "test": b""}
    for name in spoken:
        if (side := which_split(name)) in lists:
            lists[side] += name.encode() + b"\n"
    whole = {f"./{name}": content for name, content in spoken.items()}
    whole |= {
        "./_background_noise_/running_tap.wav": noise.read_bytes(),
        "./_background_noise_/README.md": b"noise",
        "./validation_list.txt": lists["val"],
        "./testing_list.txt": lists["test"],
        "./LICENSE": b"CC BY 4.0",
    }
    small = {}
    for name, content in spoken.items():
        word, file = name.split("/")
        if word in COMMANDS:
            small[f"./{name}"] = content
        else:
            small[f"./_unknown_/{word}_{file}.wav"] = content
    small |= {f"./_silence_/{i}.wav": wav_bytes(tmp, 9_000 + i) for i in range(30)}
    return {"v0.02": tar_of(whole), "mini": tar_of(small)}


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`, breaks off after `cut` bytes of an answer while `cuts` last, and notes what was asked for."""

    def __init__(self):
        self.content, self.cuts, self.cut, self.ranges, self.asked = {}, 0, 2**17, True, []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        content = server.content.get(self.path[1:])
        if content is None:
            return self.send_error(404)
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if wanted and server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if server.cuts:
            server.cuts -= 1
            rest = rest[: server.cut]
        self.wfile.write(rest)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(official, monkeypatch):
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    for name, content in official.items():
        server.content[f"{name}.tar.gz"] = content
        url = f"http://127.0.0.1:{server.server_port}/{name}.tar.gz"
        sha256 = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(ARCHIVES, name, Archive(url, sha256, len(content), 240))
    monkeypatch.setattr(corpora.time, "sleep", lambda seconds: None)
    yield server
    server.shutdown()
    server.server_close()


def serve(server, monkeypatch, content):
    """Let the corpus v0.02 be another archive, with its right checksum."""
    server.content["v0.02.tar.gz"] = content
    changed = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    monkeypatch.setitem(ARCHIVES, "v0.02", ARCHIVES["v0.02"]._replace(**changed))


def test_checksums_are_sha256_of_archives_at_the_official_place():
    for archive in ARCHIVES.values():
        assert archive.url.startswith(
            "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_"
        )
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
    assert len({archive.sha256 for archive in ARCHIVES.values()}) == 3


def test_whole_archive(server, tmp_path):
    folder = get_corpus("v0.02", raw=tmp_path)
    manifest = make_manifest(folder, tmp_path / "work").manifest
    spoken = manifest[manifest.speaker != ""]
    assert len(spoken) == 240 and not list(tmp_path.glob("*.part"))
    by_rule = spoken.path.map(which_split)
    assert (spoken.split.replace("held", "train") == by_rule).all(), "the lists and the rule disagree"
    assert (folder / "train/LICENSE").exists()


def test_small_archive_is_split_by_speaker(server, tmp_path):
    manifest = make_manifest(fetch_archive("mini", tmp_path), tmp_path / "work").manifest
    spoken = manifest[manifest.speaker != ""]
    assert set(spoken[spoken.label == "unknown"].word) == {"bed", "two"}
    assert set(spoken.speaker) == {voice.speaker for voice in make_voices(20)}
    assert (spoken.split.replace("held", "train") == spoken.speaker.map(which_split)).all()
    silence = manifest[manifest.label == "silence"]
    assert silence.groupby("path").split.nunique().max() == 1
    assert set(silence.split) == {"train", "val", "test"}


def test_second_call_downloads_nothing(server, tmp_path):
    folder = fetch_archive("v0.02", tmp_path)
    asked, stamp = len(server.asked), folder.stat().st_mtime_ns
    assert fetch_archive("v0.02", tmp_path) == folder
    assert (len(server.asked), folder.stat().st_mtime_ns) == (asked, stamp)


def test_an_archive_that_is_there_is_only_unpacked(server, official, tmp_path):
    (tmp_path / "v0.02.tar.gz").write_bytes(official["v0.02"])
    fetch_archive("v0.02", tmp_path)
    assert not server.asked


def test_wrong_checksum(server, official, tmp_path):
    server.content["v0.02.tar.gz"] = official["v0.02"][:-1] + b"!"
    with pytest.raises(CourseError, match="another checksum"):
        fetch_archive("v0.02", tmp_path)
    assert not list(tmp_path.iterdir()), "what arrived was kept"
    server.content["v0.02.tar.gz"] = official["v0.02"]
    assert fetch_archive("v0.02", tmp_path).is_dir()


def test_cut_connection_is_taken_up_again(server, tmp_path):
    server.cuts = 3
    assert fetch_archive("v0.02", tmp_path).is_dir()
    assert [wanted for _, wanted in server.asked] == [f"bytes={2**17 * i}-" for i in range(4)]


def test_a_dead_connection_goes_on_in_the_next_call(server, tmp_path):
    server.cuts = 5
    with pytest.raises(CourseError, match="Run this again: it goes on where it was"):
        fetch_archive("v0.02", tmp_path)
    assert (tmp_path / "v0.02.tar.gz.part").stat().st_size == 5 * 2**17
    assert fetch_archive("v0.02", tmp_path).is_dir()
    assert server.asked[-1][1] == f"bytes={5 * 2**17}-"


def test_a_server_without_ranges_sends_it_again(server, tmp_path):
    server.cuts, server.ranges = 1, False
    assert fetch_archive("v0.02", tmp_path).is_dir()


def test_missing_archive(server, tmp_path):
    del server.content["v0.02.tar.gz"]
    with pytest.raises(CourseError, match="404"):
        fetch_archive("v0.02", tmp_path)
    assert len(server.asked) == 1, "asked again for what is not there"


def link_member(kind):
    info = tarfile.TarInfo("./yes/link_nohash_0.wav")
    info.type, info.linkname = kind, "../../../outside"
    return info


@pytest.mark.parametrize(
    "members",
    [
        {"../outside.wav": b"x"},
        {"./yes/../../../outside.wav": b"x"},
        {"/outside.wav": b"x"},
        {"./C:/outside.wav": b"x"},
        {"link": link_member(tarfile.SYMTYPE)},
        {"link": link_member(tarfile.LNKTYPE)},
        {"pipe": link_member(tarfile.FIFOTYPE)},
    ],
    ids=["parent", "inner parent", "absolute", "drive", "symlink", "hard link", "pipe"],
)
def test_members_that_lead_out_are_refused(server, monkeypatch, tmp_path, members):
    serve(server, monkeypatch, tar_of({"./yes/0a0a0a0a_nohash_0.wav": b"x"} | members))
    raw = tmp_path / "deep/raw"
    with pytest.raises(CourseError, match="not unpacked"):
        fetch_archive("v0.02", raw)
    assert [p.name for p in raw.iterdir()] == ["v0.02.tar.gz"], "something was left behind"
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]


def test_a_broken_archive_leaves_nothing(server, monkeypatch, official, tmp_path):
    serve(server, monkeypatch, official["v0.02"][:60_000])
    with pytest.raises(CourseError, match="Nothing of it was kept"):
        fetch_archive("v0.02", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["v0.02.tar.gz"]


def test_too_small_a_disk_is_told_before_the_download(server, monkeypatch, tmp_path):
    monkeypatch.setitem(ARCHIVES, "v0.02", ARCHIVES["v0.02"]._replace(bytes=10**18))
    with pytest.raises(CourseError, match="GB are needed"):
        fetch_archive("v0.02", tmp_path)
    assert not server.asked


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_disk_that_fills_up_while_downloading(server, tmp_path):
    part = tmp_path / "v0.02.tar.gz.part"
    part.symlink_to("/dev/full")
    with pytest.raises(CourseError, match="the disk is full. .* Make room"):
        fetch_archive("v0.02", tmp_path)
    part.unlink()
    assert fetch_archive("v0.02", tmp_path).is_dir()


def test_a_disk_that_fills_up_while_unpacking(server, monkeypatch, tmp_path):
    calls = []

    def full(source, target):
        calls.append(1)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        target.write(source.read())

    with monkeypatch.context() as patch, pytest.raises(CourseError, match="No space left on device"):
        patch.setattr(corpora.shutil, "copyfileobj", full)
        fetch_archive("v0.02", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["v0.02.tar.gz"]
    asked = len(server.asked)
    assert fetch_archive("v0.02", tmp_path).is_dir() and len(server.asked) == asked


def stand_in(tmp_path, monkeypatch, script):
    """Put an executable called kaggle in front of the path."""
    path = tmp_path / "bin/kaggle"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


posix = pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")


def contest_zip(folder, official, extra=None):
    """The contest's zip of 7z archives."""
    import py7zr

    with tarfile.open(fileobj=io.BytesIO(official["v0.02"])) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
    folder.mkdir()
    plain = [{"id": py7zr.FILTER_COPY}]  # noise cannot be compressed, and that takes long
    with py7zr.SevenZipFile(folder / "train.7z", "w", filters=plain) as train:
        for name, content in files.items():
            place = f"train/{name[2:]}" if name.endswith("_list.txt") else f"train/audio/{name[2:]}"
            train.writestr(content, place)
    with py7zr.SevenZipFile(folder / "test.7z", "w") as test:
        test.writestr(
            files["./yes/" + next(n for n in files if "/yes/" in n).split("/")[-1]], "test/audio/clip_0.wav"
        )
    with py7zr.SevenZipFile(folder / "sample_submission.7z", "w") as sample:
        sample.writestr("fname,label\nclip_0.wav,silence\n", "sample_submission.csv")
    if extra:
        extra(folder)
    target = folder / f"{CONTEST}.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for inner in folder.glob("*.7z"):
            archive.write(inner, inner.name)
    return target


@posix
def test_contest(official, monkeypatch, tmp_path):
    archive = contest_zip(tmp_path / "made", official)
    stand_in(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/asked; echo downloading; cp {archive} "$6"')
    folder = get_corpus("kaggle", raw=tmp_path / "raw")
    assert (tmp_path / "asked").read_text().split()[:4] == ["competitions", "download", "-c", CONTEST]
    assert (folder / "test/audio/clip_0.wav").exists() and (folder / "sample_submission.csv").exists()
    manifest = make_manifest(folder, tmp_path / "work").manifest
    assert (manifest.speaker != "").sum() == 240
    (tmp_path / "asked").unlink()
    assert fetch_kaggle(tmp_path / "raw") == folder and not (tmp_path / "asked").exists()


@posix
def test_contest_without_a_token(monkeypatch, tmp_path):
    stand_in(tmp_path, monkeypatch, 'echo "OSError: Could not find kaggle.json" >&2; exit 1')
    with pytest.raises(CourseError) as raised:
        fetch_kaggle(tmp_path / "raw")
    for part in ("Could not find kaggle.json", "https://www.kaggle.com/settings/api", f"{CONTEST}/rules"):
        assert part in str(raised.value)
    assert not list((tmp_path / "raw").iterdir())


def test_contest_without_its_command(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CourseError, match="pip install kaggle"):
        fetch_kaggle(tmp_path / "raw")


@posix
def test_contest_archive_with_a_link_or_cut_short(official, monkeypatch, tmp_path):
    import py7zr

    def link(folder):
        os.symlink("/etc", tmp_path / "link")
        with py7zr.SevenZipFile(folder / "more.7z", "w") as archive:
            archive.write(tmp_path / "link", "test/audio/link.wav")

    archive = contest_zip(tmp_path / "made", official, link)
    with pytest.raises(CourseError, match="is a link"):
        corpora._unpack_kaggle(archive, tmp_path / "kaggle")
    assert not (tmp_path / "kaggle").exists()
    archive.write_bytes(archive.read_bytes()[:5_000])
    with pytest.raises(CourseError, match="Nothing of it was kept"):
        corpora._unpack_kaggle(archive, tmp_path / "kaggle")
    assert not list(tmp_path.glob("kaggle*"))


def test_where_members_belong():
    assert target_path("./") == Path("train")
    assert target_path("_silence_/a.wav") == Path("train/audio/_background_noise_/a.wav")
    assert target_path("on/x_nohash_0.wav.wav") == Path("train/audio/on/x_nohash_0.wav")
    for name in ("../x", "/x/y", "yes/../../x", "C:/x/y", "yes\\x"):
        with pytest.raises(CourseError, match="leads out of the folder"):
            target_path(name)


def test_archives_of_ones_own(server, official, tmp_path):
    sha256 = hashlib.sha256(official["mini"]).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/mini.tar.gz"
    folder = fetch_archive("mine", tmp_path, {"mine": Archive(url, sha256, len(official["mini"]), 240)})
    assert folder == tmp_path / "mine" and (folder / "train/audio/yes").is_dir()


@pytest.fixture
def pages(server, monkeypatch, tmp_path):
    """Two archives of twelve recordings each, eight of them in both, and a table of four: its path, and {path: bytes}."""
    wavs = [wav_bytes(tmp_path, i) for i in range(16)]
    for name, first in (("v0.02", 0), ("v0.01", 4)):
        members = {f"./no/{i}_nohash_{i}.wav": wavs[i] for i in range(first, first + 12)}
        server.content[f"{name}.tar.gz"] = content = tar_of(members | {"./no/broken.wav": b"RIFF"})
        url, digest = (
            f"http://127.0.0.1:{server.server_port}/{name}.tar.gz",
            hashlib.sha256(content).hexdigest(),
        )
        monkeypatch.setitem(ARCHIVES, name, Archive(url, digest, len(content), 13))
    places = ("bed/a_nohash_0.wav", "yes/b_nohash_7.wav", f"{NOISE_WORD}/tap.wav", "clip_0.wav")
    wanted = {
        f"{'test' if place[0] == 'c' else 'train'}/audio/{place}": wavs[i]
        for place, i in zip(places, (0, 5, 12, 15))
    }
    digests = [hashlib.sha1(wav[44:]).hexdigest()[:16] for wav in wanted.values()]
    table = pd.DataFrame({"path": [*wanted], "list": ["test", "val", "", ""], "sound": digests})
    table.to_csv(tmp_path / "table.csv.xz", index=False)
    return tmp_path / "table.csv.xz", wanted


def contents(folder):
    """{path in a folder: bytes} of its files."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_recordings_of_the_pages_are_picked(server, pages, tmp_path):
    table, wanted = pages
    folder = fetch_pages(tmp_path / "raw", table)
    found = {name: text.replace(b"\r", b"") for name, text in contents(folder).items() if "wav" not in name}
    assert found == {
        "train/validation_list.txt": b"yes/b_nohash_7.wav\n",
        "train/testing_list.txt": b"bed/a_nohash_0.wav\n",
        "sample_submission.csv": b"fname,label\nclip_0.wav,silence\n",
    }
    assert {name: wav for name, wav in contents(folder).items() if "wav" in name} == wanted
    asked = len(server.asked)
    assert fetch_pages(tmp_path / "raw", table) == folder and len(server.asked) == asked


def test_recordings_of_the_pages_that_are_in_no_archive(pages, tmp_path, capsys):
    table, wanted = pages
    clips = pd.read_csv(table, keep_default_na=False)
    clips.loc[3, "sound"] = "0" * 16
    clips.to_csv(table, index=False)
    folder = fetch_pages(tmp_path / "raw", table)
    assert "left out 1 clip(s) of test/audio" in capsys.readouterr().out
    assert {name for name in contents(folder) if "wav" in name} == {*wanted} - {"test/audio/clip_0.wav"}
    assert (folder / "sample_submission.csv").read_text().split() == ["fname,label"]
    clips.loc[:1, "sound"] = "1" * 16, "2" * 16
    clips.to_csv(table, index=False)
    for made in (folder, *tmp_path.glob("raw/*.gz")):
        made.rename(tmp_path / made.name)
    with pytest.raises(
        CourseError, match="2 of 4 recordings are in neither archive; the first: train/audio/bed"
    ):
        fetch_pages(tmp_path / "raw", table)
    assert {path.name for path in (tmp_path / "raw").iterdir()} == {"v0.01", "v0.02"}


def test_the_corpus_of_the_pages_goes_on_after_a_stop(server, pages, monkeypatch, tmp_path):
    table, wanted = pages
    server.cuts, server.cut = 5, 2**16
    with pytest.raises(CourseError, match="Run this again: it goes on where it was"):
        fetch_pages(tmp_path / "raw", table)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["v0.02.tar.gz.part"]

    def stop(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(corpora.shutil, "copyfile", stop)
        fetch_pages(tmp_path / "raw", table)
    assert server.asked[-1] == ("/v0.02.tar.gz", f"bytes={5 * 2**16}-")
    assert not list((tmp_path / "raw").glob("pages*"))
    assert {*wanted} < {*contents(fetch_pages(tmp_path / "raw", table))}
    assert [name for name, _ in server.asked[6:]] == ["/v0.01.tar.gz"]


@pytest.mark.full
def test_the_corpus_of_the_pages_from_its_recordings_under_other_names(real_corpus, monkeypatch, tmp_path):
    """In two archives, in any order, with names that say nothing: what is picked is the corpus, to the fingerprint."""
    table = pd.read_csv(PAGES, keep_default_na=False, dtype=str)
    assert table.equals(pages_table(real_corpus)), "tools/pages_corpus.py was not run"
    files = np.random.default_rng(0).permutation(sorted(real_corpus.rglob("*.wav")))
    for side in ("built", "sent"):
        (tmp_path / side / "data/raw").mkdir(parents=True)
    (tmp_path / "sent/data/raw/pages").symlink_to(real_corpus)
    for name, half in (("v0.02", files[::2]), ("v0.01", files[1::2])):
        archive = tmp_path / f"built/data/raw/{name}.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
            for i, file in enumerate(half):
                tar.add(file, f"./word/{i}.wav")
        entry = Archive(f"http://127.0.0.1:9/{archive.name}", pooch.file_hash(archive), 0, len(half))
        monkeypatch.setitem(ARCHIVES, name, entry)
    places = {}
    for side in ("built", "sent"):
        monkeypatch.chdir(tmp_path / side)
        places[side] = make_manifest(get_corpus("pages"), "work", "full")
    assert places["built"].fingerprint == places["sent"].fingerprint
    built, sent = (contents(tmp_path / side / "data/raw/pages") for side in ("built", "sent"))
    assert len(built) == len(table) + 3
    assert all(sent[name] == content for name, content in built.items())


def zip_of(members):
    """A .zip of {name: bytes}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


SOUNDS = {"002 - Rain/5-2-A.ogg": b"rain" * 99_999, "010 - Fire crackling/1-3-B.ogg": b"fire" * 99_999}


def digest_of(files):
    """SHA-256 of names and contents {name: bytes}, as of GitHub's archives."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return digest.hexdigest()


@pytest.fixture
def sounds(server):
    """An archive of two sounds in the layout of ESC-10, with its right checksum, on the server as esc10.zip."""
    there = {f"ESC-10-553c8f1/{name}": content for name, content in SOUNDS.items()}
    server.content["esc10.zip"] = zip_of(there | {"ESC-10-553c8f1/README.md": b"sounds"})
    return Archive(f"http://127.0.0.1:{server.server_port}/esc10.zip", digest_of(SOUNDS), 800_000, 2)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "without ranges"])
def test_sounds_of_ten_kinds(server, sounds, tmp_path, ranges):
    server.cuts, server.cut, server.ranges = 2, 2**16, ranges
    folder = fetch_esc10(tmp_path, sounds)
    assert folder == tmp_path / "esc10" and [path.name for path in tmp_path.iterdir()] == ["esc10"]
    table = "fname,label,fold\n1-3-B.ogg,fire_crackling,1\n5-2-A.ogg,rain,5\n"
    assert (folder / "esc10.csv").read_text().replace("\r", "") == table
    found = {path.name: path.read_bytes() for path in (folder / "audio").iterdir()}
    assert found == {name.split("/")[1]: content for name, content in SOUNDS.items()}
    asked = len(server.asked)
    assert fetch_esc10(tmp_path, sounds) == folder and len(server.asked) == asked


def test_sounds_are_checked_by_their_content(server, sounds, tmp_path):
    """GitHub packs an archive in another way some day; the same sounds in another order, under another folder, are right."""
    server.content["esc10.zip"] = zip_of({f"other/{name}": SOUNDS[name] for name in reversed(SOUNDS)})
    fetch_esc10(tmp_path / "right", sounds)
    changed = {f"x/{name}": content.replace(b"rainr", b"snowr") for name, content in SOUNDS.items()}
    renamed = {f"x/{name.replace('Rain', 'Snow')}": content for name, content in SOUNDS.items()}
    for wrong in (zip_of(changed), zip_of(renamed), zip_of({}), b"no zip", server.content["esc10.zip"][:-99]):
        server.content["esc10.zip"] = wrong
        with pytest.raises(CourseError, match="another checksum, and was thrown away. Run this again"):
            fetch_esc10(tmp_path / "wrong", sounds)
        assert not list((tmp_path / "wrong").iterdir()), "something was left behind"


def test_sounds_from_a_dead_connection_or_from_nowhere(server, sounds, tmp_path):
    server.cuts, server.cut = 5, 2**16
    with pytest.raises(CourseError, match="Run this again: it goes on where it was"):
        fetch_esc10(tmp_path, sounds)
    assert (tmp_path / "esc10.zip.part").stat().st_size == 5 * 2**16
    assert fetch_esc10(tmp_path, sounds).is_dir() and server.asked[-1][1] == f"bytes={5 * 2**16}-"
    with pytest.raises(CourseError, match="404"):
        fetch_esc10(tmp_path / "other", sounds._replace(url=sounds.url + "x"))


@pytest.mark.skipif(
    not (ROOT / "data/raw/esc10").is_dir(), reason="needs ESC-10 in data/raw: kws corpus esc10"
)
def test_the_checksum_is_that_of_the_recordings():
    table = pd.read_csv(ROOT / "data/raw/esc10/esc10.csv")
    assert len(table) == ESC10.clips and (table.groupby(["label", "fold"]).size() == 8).all()
    order = (
        "dog_bark rain sea_waves baby_cry clock_tick person_sneeze helicopter chainsaw rooster fire_crackling"
    )
    kinds = {
        kind: f"{i:03} - {kind.capitalize().replace('_', ' ')}" for i, kind in enumerate(order.split(), 1)
    }
    audio = ROOT / "data/raw/esc10/audio"
    files = {
        f"{kinds[label]}/{name}": (audio / name).read_bytes() for name, label in zip(table.fname, table.label)
    }
    assert digest_of(files) == ESC10.sha256


@pytest.fixture
def arabic(server, tmp_path):
    """An archive in the layout of the Arabic Speech Commands: two words, three speakers, a noise; on the server as arabic.zip."""
    files, tables = {}, dict.fromkeys(("train", "val", "test"), b"file,class\n")
    for number, (word, split) in enumerate(itertools.product(("zoom in", "zero"), tables)):
        name = f"dataset/{word}/0000000{[*tables].index(split) + 1}_NO_10.wav"
        files[name] = wav_bytes(tmp_path, number)
        tables[split] += f"{name},{word}\n".encode()
    write_wav(tmp_path / "boiler.wav", np.random.default_rng(1).uniform(-0.3, 0.3, 20 * 16_000))
    files["background_noise/boiler.wav"] = (tmp_path / "boiler.wav").read_bytes()
    files |= {f"{split}.csv": tables[split] for split in ("val", "test")}
    others = {"train.csv": tables["train"], "background_noise/street.wav": b"long", "README.md": b"words"}
    server.content["arabic.zip"] = zip_of(
        {f"x/{name}": content for name, content in (others | files).items()}
    )
    for path in tmp_path.iterdir():
        path.unlink()
    return Archive(f"http://127.0.0.1:{server.server_port}/arabic.zip", digest_of(files), 200_000, 6)


def test_arabic_words_in_the_layout_of_the_contest(server, arabic, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora.fetch_arabic, "__defaults__", ("data/raw", arabic))
    server.cuts = 1
    folder = get_corpus("arabic", raw=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["arabic"] and folder == tmp_path / "arabic"
    audio = folder / "train/audio"
    assert {path.relative_to(audio).as_posix() for path in audio.rglob("*.wav")} == {
        f"{NOISE_WORD}/boiler.wav",
        *(f"{word}/0000000{i}_nohash_10.wav" for word in ("zoom in", "zero") for i in (1, 2, 3)),
    }
    manifest = make_manifest(folder, tmp_path / "work", words=("zoom in", "zero")).manifest
    spoken = manifest[manifest.speaker != ""]
    assert dict(zip(spoken.speaker, spoken.split)) == {
        "00000001": "train",
        "00000002": "val",
        "00000003": "test",
    }
    asked = len(server.asked)
    assert get_corpus("arabic", raw=tmp_path) == folder and len(server.asked) == asked
    server.content["arabic.zip"] = server.content["arabic.zip"].replace(b"00000001_NO_10", b"00000001_NO_11")
    with pytest.raises(CourseError, match="another checksum"):
        fetch_arabic(tmp_path / "other", arabic)
    assert not list((tmp_path / "other").iterdir())


def test_all_words_of_arabic_are_commands():
    assert len(set(ARABIC_WORDS)) == 40 and {"zoom in", "zoom out"} <= set(ARABIC_WORDS)
    assert len({written for written, _, _ in ARABIC_WORDS.values()}) == 40
    assert commands_of("arabic") == commands_of(Path("data/raw/arabic")) == tuple(ARABIC_WORDS)
    assert commands_of("mini") == commands_of("data/raw/mine") == COMMANDS


@pytest.mark.skipif(
    not (ROOT / "data/raw/arabic").is_dir(),
    reason="needs the Arabic Speech Commands in data/raw: kws corpus arabic",
)
def test_the_checksum_is_that_of_the_arabic_words():
    folder, files = ROOT / "data/raw/arabic/train", {}
    for path in folder.glob("audio/*/*.wav"):
        speaker, _, take = path.stem.partition("_nohash_")
        name = f"dataset/{path.parent.name}/{speaker}_NO_{int(take or 0):02}.wav"
        files[name if take else f"background_noise/{path.name}"] = path.read_bytes()
    for split, name in (("val", "validation_list.txt"), ("test", "testing_list.txt")):
        rows = [line.split("/") for line in (folder / name).read_text().splitlines()]
        lines = [f"dataset/{word}/{file[:8]}_NO_{int(file[16:-4]):02}.wav,{word}" for word, file in rows]
        files[f"{split}.csv"] = "\n".join(["file,class", *lines, ""]).encode()
    assert len(files) == ARABIC.clips + 4 and sum(map(len, files.values())) == ARABIC.bytes
    assert digest_of(files) == ARABIC.sha256


def test_work_dir_keeps_profiles_apart():
    profiles = ("smoke", "sample", "full")
    assert len({work_dir(c, p) for c in ("synthetic", "data/raw/mine") for p in profiles}) == 6
    with pytest.raises(CourseError, match="PROFILE=huge"):
        work_dir("synthetic", "huge")


@pytest.mark.parametrize("corpus", ["", ".", "..", "data/raw"])
def test_work_dir_is_a_folder_of_its_own(corpus, tmp_path, monkeypatch):
    (tmp_path / "data/raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "data/raw")
    with pytest.raises(CourseError, match="name a corpus"):
        work_dir(corpus, "full")


def test_a_folder_that_is_no_corpus(tmp_path):
    with pytest.raises(
        CourseError, match="nowhere: there is no such folder. Use CORPUS=synthetic, mini.*, pages"
    ):
        get_corpus(tmp_path / "nowhere")
    (tmp_path / "mine/train/audio").mkdir(parents=True)
    with pytest.raises(CourseError, match="mine: no recordings.*There are none elsewhere"):
        get_corpus(tmp_path / "mine")
    write_wav(tmp_path / "mine/train/audio/yes.wav", np.zeros(10))
    with pytest.raises(CourseError, match="There is .*/yes.wav: move it"):
        get_corpus(tmp_path / "mine")


def test_a_place_is_opened_again(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work = work_dir(corpus, "smoke")
    with pytest.raises(CourseError, match="0_split.ipynb writes it"):
        open_place(corpus, "smoke")
    made, found = make_manifest(corpus, work, "smoke"), open_place(corpus, "smoke")
    assert (found.work, found.folder, found.fingerprint) == (made.work, corpus, made.fingerprint)
    assert found.manifest.equals(made.manifest)
