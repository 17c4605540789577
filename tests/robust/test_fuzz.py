"""Bad input, made up by hypothesis: nothing that is read may crash the process, hang, write outside its folder, run what it says,
or pass silently for a good clip.

FUZZ=10000 tries so many cases of each kind in place of a few hundred.
"""

import contextlib
import functools
import gzip
import importlib.util
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import ROOT

from kws import pi
from kws.audio import CLIP_SAMPLES, check_wav, read_clip, read_clips
from kws.inference import predict_clips, test_clips
from kws.infra.corpora import _unpack_kaggle, unpack
from kws.infra.experiments import read_rows
from kws.infra.files import CourseError, fingerprint
from kws.infra.store import open_array
from kws.preprocess import write_store
from kws.split import LABELS, Place, labels_of, manifest_hash, read_lists, read_manifest, split_clips
from kws.submission import check_submission, score_submission

test_clips.__test__ = False  # a function of the course, not a test
full = pytest.mark.full

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

FUZZ = int(os.environ.get("FUZZ", 0))
pytestmark = pytest.mark.timeout(7_200 if FUZZ else 300)


def tries(examples):
    """Settings of a test: so many cases, or FUZZ; the same ones in each run, unless FUZZ asks for more."""
    return settings(
        max_examples=FUZZ or examples,
        deadline=None,
        derandomize=not FUZZ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def changed(draw, content):
    """Bytes with some of them changed, cut off, repeated or put in."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.one_of(st.integers(0, min(len(data), 64)), st.integers(0, len(data))))
        what = draw(st.sampled_from(["byte", "byte", "word", "cut", "insert", "repeat"]))
        if what == "byte" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif what == "word" and at + 4 <= len(data):
            data[at : at + 4] = struct.pack(
                "<I", draw(st.sampled_from([0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1]))
            )
        elif what == "cut":
            del data[at:]
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=20))
        elif what == "repeat":
            data[at:at] = data[at : at + 50]
    return bytes(data)


def wav(tag=1, channels=1, rate=16_000, bits=16, data=b"", length=None, before=(), extra=b""):
    """A wav file by hand: `before` are chunks (name, bytes) in front of the sound, `extra` ends the format chunk."""
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * frame % 2**32, frame % 2**16, bits) + extra
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    for name, content in before:
        chunks += name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    chunks += b"data" + struct.pack("<I", len(data) if length is None else length) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


SOUND = (8_000 * np.sin(np.arange(12_000) / 9)).astype("<i2").tobytes()
EXTENSIBLE = struct.pack("<HHI", 22, 16, 4) + b"\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"

wavs = st.one_of(
    st.binary(max_size=200),
    changed(wav(data=SOUND[:2_000])),
    changed(wav(data=SOUND[:2_000], tag=0xFFFE, extra=EXTENSIBLE)),
    st.builds(
        wav,
        tag=st.sampled_from([0, 1, 1, 1, 2, 3, 6, 7, 0x11, 0xFFFE]),
        channels=st.sampled_from([0, 1, 1, 1, 2, 6, 65_535]),
        rate=st.sampled_from([0, 1, 8_000, 16_000, 16_000, 48_000, 2**32 - 1]),
        bits=st.sampled_from([0, 1, 8, 12, 16, 16, 24, 32, 64]),
        data=st.one_of(st.just(SOUND), st.binary(max_size=100)),
        length=st.sampled_from([None, None, 0, 1, 7, 2**31, 2**32 - 1]),
        before=st.lists(
            st.tuples(st.sampled_from([b"LIST", b"bext", b"data", b"fmt "]), st.binary(max_size=9)),
            max_size=2,
        ),
    ),
)


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """A folder with a neighbour that must stay as it is."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "neighbour").write_text("untouched")
    (folder / "inside").mkdir()
    return folder / "inside"


def untouched(inside):
    """Nothing was written beside a folder."""
    there = sorted(path.name for path in inside.parent.iterdir())
    assert there == ["inside", "neighbour"] and (inside.parent / "neighbour").read_text() == "untouched"


@tries(600)
@given(content=wavs)
def test_wav(inside, cases, content):
    with cases("input", "wav file"):
        path = inside / "x_nohash_0.wav"
        path.write_bytes(content)
        fault, samples, digest = check_wav(path)
        try:
            clip = read_clip(path)
            assert clip.shape == (CLIP_SAMPLES,) and clip.dtype == np.float32 and np.abs(clip).max() <= 1
        except CourseError as error:
            clip = None
            assert str(path) in str(error)
        try:
            on_pi = pi.read_wav(path)
            assert on_pi.shape == (CLIP_SAMPLES,) and np.abs(on_pi).max() <= 1
        except ValueError as error:
            on_pi = None
            assert str(path) in str(error)
        if not fault:  # a good clip: 16 kHz, 16 bits, mono also by another reader, and the same to all three
            with soundfile.SoundFile(path) as file:
                assert (file.samplerate, file.channels, file.subtype) == (16_000, 1, "PCM_16")
            rows = pd.DataFrame({"path": [str(path)], "start": [0], "gain": [1.0]})
            assert samples > 0 and np.array_equal(clip, on_pi) and np.array_equal(read_clips(rows)[0], clip)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "raw", "au"])
def test_noise_under_any_name(inside, cases, suffix):
    rng = np.random.default_rng(0)
    path = inside / f"x.{suffix}"
    for magic in (
        b"",
        b"fLaC",
        b"OggS",
        b"FORM",
        b".snd",
        b"ID3",
        b"RIFF\xff\xff\xff\xffWAVE",
        b"RF64",
        b"riff",
    ):
        with cases("input", "sound file of another kind"):
            path.write_bytes(magic + rng.bytes(300))
            with pytest.raises(CourseError):
                read_clip(path)
            assert check_wav(path)[0]


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"])
def test_other_encodings_are_read_right(inside, cases, subtype):
    sound = 0.5 * np.sin(np.arange(12_000) / 9)
    path = inside / "x.wav"
    with cases("input", "sound file of another kind"):
        soundfile.write(path, sound, 16_000, subtype=subtype)
        tolerance = {"PCM_U8": 0.01, "ALAW": 0.03, "ULAW": 0.03}.get(subtype, 1e-6)
        np.testing.assert_allclose(read_clip(path)[:12_000], sound, atol=tolerance)
        assert check_wav(path)[0], "the course stores 16 bits: others are listed"


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "AIFF", "W64", "RF64", "WAVEX"])
def test_other_containers_are_read_right(inside, cases, kind):
    if kind not in soundfile.available_formats():
        pytest.skip(f"soundfile reads no {kind} here")
    sound = 0.5 * np.sin(np.arange(12_000) / 9)
    path = inside / f"x.{kind.lower()}"
    with cases("input", "sound file of another kind"):
        soundfile.write(path, sound, 16_000, format=kind)
        np.testing.assert_allclose(read_clip(path)[:12_000], sound, atol=0.1 if kind == "OGG" else 1e-4)
    with cases("input", "sound file of another kind"):
        path.write_bytes(path.read_bytes()[:1_000])
        with contextlib.suppress(CourseError):
            assert np.abs(read_clip(path)).max() <= 1


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_other_rates_and_stereo_are_told(inside, cases, rate, channels):
    path = inside / "x.wav"
    with cases("input", "sound file of another kind"):
        soundfile.write(path, np.zeros((rate, channels)), rate)
        with pytest.raises(CourseError, match=f"{rate:,} Hz, {channels} channel"):
            read_clip(path)
        assert f"{rate:,} Hz" in check_wav(path)[0]


@pytest.mark.parametrize(
    "odd",
    [
        {"before": [(b"LIST", b"INFOodd"), (b"bext", b"x" * 33)]},
        {"length": 2**32 - 1},
        {"length": 2**31},
        {"length": 0},
        {"length": len(SOUND) - 2_000},
        {"tag": 0xFFFE, "extra": EXTENSIBLE},
    ],
    ids=[
        "chunks before the sound",
        "length of a stream",
        "length too large",
        "length 0",
        "length too small",
        "extensible",
    ],
)
def test_odd_headers(inside, cases, odd):
    path = inside / "x.wav"
    with cases("input", "sound file of another kind"):
        path.write_bytes(wav(data=SOUND, **odd))
        fault, samples, _ = check_wav(path)
        expected = np.frombuffer(SOUND, "<i2") / np.float32(32_768)
        if "before" in odd:
            assert not fault and np.array_equal(read_clip(path)[:12_000], expected)
        elif odd.get("length") == len(SOUND) - 2_000:
            assert not fault and samples == 11_000, "the header decides what is sound"
        elif "tag" in odd:  # wave knows it from Python 3.12 on
            assert np.array_equal(read_clip(path)[:12_000], expected) and (not fault or "not a PCM" in fault)
        else:
            assert "truncated" in fault or "no samples" in fault


def test_floats_that_are_no_sound(inside, cases):
    for value in (np.nan, np.inf, -np.inf, 3.0, 1e30):
        with cases("input", "wav file"):
            soundfile.write(inside / "x.wav", np.full(16_000, value, "float32"), 16_000, subtype="FLOAT")
            with pytest.raises(CourseError, match="beyond full scale"):
                read_clip(inside / "x.wav")


lines = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"yes/a_nohash_0.wav",
                b"../../x.wav",
                b"/etc/passwd",
                b"",
                b"\\\\host\\x",
                b"\xff\xfe",
                b"\0",
                b",",
                b"#",
            ]
        ),
        st.binary(max_size=30),
    ),
    max_size=8,
).map(b"\n".join)
BOM = "\ufeff".encode()


@tries(200)
@given(val=lines, test=lines)
def test_lists(inside, cases, val, test):
    with cases("input", "list file"):
        (inside / "validation_list.txt").write_bytes(val)
        (inside / "testing_list.txt").write_bytes(test)
        clips = pd.DataFrame(
            {
                "path": [f"yes/{name}_nohash_0.wav" for name in "abc"],
                "speaker": list("abc"),
                "label": ["yes"] * 3,
            }
        )
        try:
            said = split_clips(clips, read_lists(inside))
            assert set(said.split) == {"train", "val", "test"}
        except CourseError:
            pass
        untouched(inside)


def test_lists_of_windows(tmp_path):
    (tmp_path / "validation_list.txt").write_bytes(BOM + b"yes\\a_nohash_0.wav\r\n")
    (tmp_path / "testing_list.txt").write_bytes(b"yes/b_nohash_0.wav\r\n\r\n")
    assert read_lists(tmp_path) == {"yes/a_nohash_0.wav": "val", "yes/b_nohash_0.wav": "test"}


@pytest.fixture(scope="module")
def manifest_files(work):
    text = (work / "manifest.csv").read_text().splitlines()
    return ("\n".join([text[0], *text[1:200:40]]) + "\n").encode(), (work / "labels.txt").read_bytes()


@tries(150)
@given(data=st.data())
def test_manifest(inside, cases, manifest_files, data):
    with cases("input", "manifest"):
        table, labels = manifest_files
        (inside / "manifest.csv").write_bytes(data.draw(st.one_of(changed(table), st.binary(max_size=99))))
        (inside / "labels.txt").write_bytes(data.draw(st.one_of(st.just(labels), changed(labels))))
        (inside / "manifest.json").write_bytes(
            data.draw(st.sampled_from([b"", b"{", b"[]", b"{}", b'{"revision": "x"}']))
        )
        try:
            manifest = read_manifest(inside)
        except CourseError as error:
            assert str(inside) in str(error)
        else:
            assert manifest_hash(manifest) and len(labels_of(manifest)) > 1
            with contextlib.suppress(CourseError):
                clips = read_clips(manifest)
                assert np.isfinite(clips).all()
        untouched(inside)


@tries(100)
@given(data=st.data())
def test_submission(inside, cases, data):
    names = [f"clip_{number}.wav" for number in range(4)]
    good = "fname,label\n" + "".join(f"{name},yes\n" for name in names)
    solution = "fname,label,Usage\n" + "".join(f"{name},yes,Private\n" for name in names)
    with cases("input", "csv file"):
        (inside / "s.csv").write_bytes(data.draw(st.one_of(st.just(good.encode()), changed(good.encode()))))
        (inside / "solution.csv").write_bytes(
            data.draw(st.one_of(st.just(solution.encode()), changed(solution.encode())))
        )
        try:
            check_submission(inside / "s.csv", names)
            right = pd.read_csv(inside / "s.csv", dtype=str)
            assert right.fname.tolist() == names and set(right.label) <= set(LABELS)
        except CourseError:
            pass
        try:
            board = score_submission(inside / "s.csv", inside / "solution.csv")
            assert board.accuracy.between(0, 1).all()
        except CourseError:
            pass
        (inside / "e.csv").write_bytes(
            data.draw(changed(b"model,accuracy,high,seconds,seed\nlinear,0.5,0.6,1.0,0\n"))
        )
        with contextlib.suppress(CourseError):
            assert isinstance(read_rows(inside / "e.csv"), list)
        untouched(inside)


@tries(100)
@given(
    content=changed(b"fname,label\nclip_0.wav,silence\nclip_1.wav,silence\n"),
    name=st.sampled_from(["../x.wav", "/etc/passwd", "..", "a/b.wav", ""]),
)
def test_sample_submission(inside, cases, content, name):
    with cases("input", "csv file"):
        (inside / "test/audio").mkdir(parents=True, exist_ok=True)
        (inside / "test/audio/clip_0.wav").touch()
        for text in (content, b"fname,label\nclip_0.wav,yes\n" + name.encode() + b",yes\n"):
            (inside / "sample_submission.csv").write_bytes(text)
            try:
                paths = test_clips(inside)
                assert all(path.parent == inside / "test/audio" for path in paths)
            except CourseError:
                pass
            else:
                assert text is content


def tar_of(members):
    """A .tar.gz of (name, kind, bytes), with the same bytes at any time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = (
                kind,
                "../../neighbour",
                len(content) * (kind == tarfile.REGTYPE),
            )
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), 1, mtime=0)


names = st.one_of(
    st.sampled_from(
        ["./yes/a_nohash_0.wav", "yes", "yes/a", "../neighbour", "yes/../../../neighbour", "/tmp/kws-outside", "C:\\x", "..", ".",
         "", "./_unknown_/bed_a_nohash_0.wav.wav", "_silence_/1.wav", "a/" * 300 + "x", "x" * 400, "./LICENSE", "\udcff/x.wav"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=12),
)  # fmt: skip
kinds = st.sampled_from(
    [tarfile.REGTYPE] * 6
    + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)


def unpack_all(inside, content, unpacker, archive):
    """Unpack, and see that there is a whole folder or none, and nothing elsewhere."""
    (inside / archive).write_bytes(content)
    try:
        unpacker(inside / archive, inside / "out")
    except CourseError:
        assert not (inside / "out").exists()
    else:
        root = (inside / "out").resolve()
        for path in root.rglob("*"):
            assert (
                path.resolve().is_relative_to(root)
                and not path.is_symlink()
                and (path.is_file() or path.is_dir())
            )
    shutil.rmtree(inside / "out", ignore_errors=True)
    assert sorted(p.name for p in inside.glob("out*")) == [] and not Path("/tmp/kws-outside").exists()
    untouched(inside)


@tries(300)
@given(data=st.data())
def test_archive(inside, cases, data):
    with cases("input", "archive"):
        content = tar_of(data.draw(st.lists(st.tuples(names, kinds, st.binary(max_size=50)), max_size=5)))
        if data.draw(st.booleans()):
            content = data.draw(changed(content))
        unpack_all(inside, content, unpack, "a.tar.gz")


@functools.cache
def seven_zip():
    """A small 7z archive; made once, for it has the time in it."""
    py7zr = pytest.importorskip("py7zr")
    inner = io.BytesIO()
    with py7zr.SevenZipFile(inner, "w", filters=[{"id": py7zr.FILTER_COPY}]) as archive:
        archive.writestr(b"x" * 50, "train/audio/yes/a_nohash_0.wav")
    return inner.getvalue()


@tries(100)
@given(data=st.data())
def test_contest_archive(inside, cases, data):
    with cases("input", "archive"):
        inner = data.draw(st.one_of(st.just(seven_zip()), changed(seven_zip())))
        name = data.draw(st.sampled_from(["../train.7z", "/tmp/kws-outside", "a.txt", "yes/../../neighbour"]))
        outer = io.BytesIO()
        with zipfile.ZipFile(outer, "w") as archive:
            archive.writestr(zipfile.ZipInfo("train.7z"), inner)
            archive.writestr(zipfile.ZipInfo(name), b"x")
        content = outer.getvalue()
        content = data.draw(st.one_of(st.just(content), changed(content)))
        unpack_all(inside, content, _unpack_kaggle, "a.zip")


READERS = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from kws.inference import load_predictor
from kws.infra.files import CourseError
from kws.infra.store import open_array

clips = np.zeros((1, 16_000), "float32")
for line in sys.stdin:
    path, said = line.strip(), "read"
    try:
        if path.endswith(".bc"):
            rows = open_array(path)[:]
        else:
            load_predictor(path)(clips)
    except CourseError as error:
        said = "refused"
    except Exception as error:
        said = f"{type(error).__module__}.{type(error).__name__}: {error}"[:300].replace(chr(10), " ")
    print("SAID", json.dumps([path, said]), flush=True)
"""


def read_all(paths, folder):
    """Let another process read stores or models; returns {path: what it said}, or the signal that ended it."""
    said, left = {}, [str(path) for path in paths]
    while left:
        done = subprocess.run(
            [sys.executable, "-c", READERS],
            input="\n".join(left),
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
            timeout=600 if not FUZZ else 7_200,
        )
        answers = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("SAID ")]
        said |= dict(answers)
        left = left[len(answers) :]
        if left:
            assert done.returncode < 0, done.stderr[-2_000:]
            said[left.pop(0)] = f"killed by signal {-done.returncode}"
    return said


def spoil(content, rng):
    """Bytes, changed as `changed` does it, for files in large numbers."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(min(len(data), 200) if rng.random() < 0.5 else max(len(data), 1)) if data else 0
        kind = rng.random()
        if kind < 0.6 and data:
            data[at] = rng.randrange(256)
        elif kind < 0.8 and at + 4 < len(data):
            data[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
        elif kind < 0.9:
            del data[at:]
        else:
            data[at:at] = rng.randbytes(rng.randrange(20))
    return bytes(data)


@full
def test_stores(place, tmp_path, cases):
    few, rng, paths = Place.of(tmp_path, place.manifest[:70]), random.Random(FUZZ), {}
    for library in ("bcolz", "blosc2"):
        if not importlib.util.find_spec(library):
            continue
        own = few._replace(work=tmp_path / library)
        write_store(own, "fft", shard=64, library=library)
        whole = own.work / "fft.bc"
        files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
        for number in range(FUZZ or 150):
            path = own.work / f"{number}/fft.bc"
            shutil.copytree(whole, path)
            file = path / rng.choice(files)
            file.unlink() if rng.random() < 0.1 else file.write_bytes(spoil(file.read_bytes(), rng))
            paths[str(path)] = library
    said = read_all(paths, tmp_path)
    for path, library in paths.items():
        with cases("input", f"store, {library}"):
            assert "killed" not in said[path], f"{path}: {said[path]}"


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


def test_a_store_of_objects_is_not_unpickled(tmp_path, cases, monkeypatch):
    bcolz = pytest.importorskip("bcolz")
    monkeypatch.chdir(tmp_path)
    with cases("input", "file that wants to run something"):
        array = bcolz.carray(np.empty(0, object), dtype=np.dtype(object), rootdir="x.bc", mode="w")
        array.append(np.array([Evil(), None], object))
        array.flush()
        with pytest.raises(CourseError, match="holds no numbers"):
            open_array("x.bc")[:]
        assert not Path("pwned").exists()


def test_pickled_arrays_are_refused(tmp_path, monkeypatch, cases):
    monkeypatch.chdir(tmp_path)
    with cases("input", "file that wants to run something"):
        np.save("p.npy", np.array([Evil()], object), allow_pickle=True)
        paths = [tmp_path / "a.wav"]
        Path("p.json").write_text(json.dumps({"state": fingerprint("", [str(path) for path in paths])}))
        with pytest.raises((CourseError, ValueError), match="pickle"):
            predict_clips(None, paths, "p.npy")
        assert not Path("pwned").exists()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small model in its three forms."""
    import keras

    from kws.deploy import freeze, to_litert, write_frozen

    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("models")
    pcm = keras.Input((CLIP_SAMPLES,))
    x = keras.layers.AveragePooling1D(160)(keras.layers.Reshape((CLIP_SAMPLES, 1))(pcm))
    x = keras.layers.Dense(12, "softmax")(
        keras.layers.Flatten()(keras.layers.Conv1D(4, 3, activation="relu")(x))
    )
    model = keras.Model(pcm, x)
    model.save(folder / "model.keras")
    write_frozen(model, folder / "model.pb")
    (folder / "model.tflite").write_bytes(to_litert(freeze(model)))
    return folder


@full
def test_model_files(models, tmp_path, cases):
    (tmp_path / "inside").mkdir()
    paths, rng = [], random.Random(FUZZ)
    for kind in ("keras", "pb", "tflite"):
        content = (models / f"model.{kind}").read_bytes()
        for number in range(FUZZ or 80):
            paths.append(tmp_path / f"inside/{number}.{kind}")
            paths[-1].write_bytes(
                spoil(content, rng) if rng.random() < 0.9 else rng.randbytes(rng.randrange(300))
            )
    said = read_all(paths, tmp_path / "inside")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inside"]
    assert sorted((tmp_path / "inside").iterdir()) == sorted(paths), "a model has written something"
    for path in paths:
        with cases("input", f"model file, {path.suffix}"):
            assert said[str(path)] in ("read", "refused"), f"{path}: {said[str(path)]}"


def test_a_keras_model_with_code_is_refused(tmp_path, cases, monkeypatch):
    import keras

    from kws.inference import load_model

    monkeypatch.chdir(tmp_path)
    with cases("input", "file that wants to run something"):
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Lambda(lambda x: __import__("pathlib").Path("pwned").touch() or x),
            ]
        )
        Path("pwned").unlink(missing_ok=True)
        model.save("evil.keras")
        with pytest.raises(CourseError, match="evil.keras"):
            load_model("evil.keras")
        assert not Path("pwned").exists()


@pytest.mark.parametrize("way", ["WriteFile", "ReadFile"])
def test_a_graph_that_touches_files_is_refused(tmp_path, cases, way):
    import tensorflow as tf

    from kws.deploy import load_graph

    with cases("input", "file that wants to run something"):
        with tf.Graph().as_default() as graph:
            pcm = tf.compat.v1.placeholder(tf.float32, [16_000, 1], "decoded_sample_data")
            tf.compat.v1.placeholder(tf.int32, [], "decoded_sample_data_1")
            if way == "WriteFile":
                done = [tf.io.write_file(str(tmp_path / "pwned"), "x")]
                with tf.control_dependencies(done):
                    tf.identity(pcm[:12, 0], name="labels_softmax")
            else:
                text = tf.io.read_file("/etc/hostname")
                tf.identity(pcm[:12, 0] + tf.cast(tf.strings.length(text), tf.float32), name="labels_softmax")
        (tmp_path / "evil.pb").write_bytes(graph.as_graph_def().SerializeToString())
        with pytest.raises(CourseError, match=f"{way}"):
            load_graph(tmp_path / "evil.pb")
        assert not (tmp_path / "pwned").exists()
