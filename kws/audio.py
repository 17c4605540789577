"""What a clip is, which files are clips, and how they are read, checked and written."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import io
import os
import unicodedata
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from kws.infra.files import CourseError, write_atomically

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_RATE = 16_000
CLIP_SAMPLES = 16_000
FULL_SCALE = 32_768  # of 16-bit samples
NOISE_WORD = "_background_noise_"
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".aiff")


def to_float(pcm: np.ndarray) -> np.ndarray:
    """16-bit PCM [...] -> float32 [...] in [-1, 1).

    >>> to_float(np.array([-32_768, 0, 16_384], "int16"))
    array([-1. ,  0. ,  0.5], dtype=float32)
    """
    return pcm.astype("float32") / FULL_SCALE


def audio_folder(folder: str | Path) -> Path:
    """Where the folders of words are: in `folder`/train/audio, or in `folder` itself if it has no such folder."""
    inner = Path(folder) / "train/audio"
    return inner if inner.is_dir() else Path(folder)


def visible_files(folder: str | Path, suffix: str = "") -> list[Path]:
    """Files directly in a folder, by name, without those that a system leaves there (._x.wav, .DS_Store).

    With a `suffix` such as ".wav" only those that end so, in either case of letters.
    """
    if not Path(folder).is_dir():
        return []
    files = (path for path in Path(folder).iterdir() if not path.name.startswith(".") and path.is_file())
    return sorted(path for path in files if path.name.lower().endswith(suffix))


def recordings(folder: str | Path) -> list[Path]:
    """The files in the folders of words of a corpus, by name; noise is not a word."""
    audio = audio_folder(folder)
    words = sorted(path for path in audio.iterdir() if path.is_dir()) if audio.is_dir() else []
    return [file for word in words if not word.name.startswith((".", "_")) for file in visible_files(word)]


def noise_recordings(folder: str | Path) -> list[Path]:
    """The recordings of background noise of a corpus, by name."""
    return visible_files(audio_folder(folder) / NOISE_WORD, ".wav")


def same_name(name: str) -> str:
    """A name in one form, however its accents were composed and whatever the locale takes a file's name for.

    As macOS and other systems write it, and in a terminal that is not in UTF-8, a word and its folder are equal.
    """
    with contextlib.suppress(UnicodeError):
        name = os.fsencode(name).decode()
    return unicodedata.normalize("NFC", name)


def is_text(name: str | Path) -> bool:
    """Whether a file's name is UTF-8, and can be written to a table: file systems also have names that are not."""
    try:
        os.fsencode(name).decode()
    except UnicodeError:
        return False
    return True


def as_text(name: str | Path) -> str:
    """A file's name, or a message with one in it, as text; what is no UTF-8 is shown as an escape."""
    with contextlib.suppress(UnicodeError):  # where the locale has no such letter, it is no file's name
        name = os.fsencode(name).decode("utf-8", "surrogateescape")
    return str(name).encode("utf-8", "backslashreplace").decode()


def files_by_name(folder: str | Path) -> Callable[[str], Path]:
    """Function from a name, as a table has it, to the file in a folder: the accents may be composed in another way there."""
    files = visible_files(folder)
    same, exact = ({key(path.name): path for path in files} for key in (same_name, str))
    return lambda name: exact.get(name) or same.get(same_name(name)) or Path(folder) / name


def _read_wave(
    path: str | Path, start: int = 0, samples: int = -1
) -> tuple[tuple[int, int, int, int], bytes]:
    """Channels, bytes per sample, rate and promised samples of a PCM wav, and its sound, by the standard library."""
    with open(path, "rb") as file, wave.open(file) as wav:
        wav.setpos(start)
        return wav.getparams()[:4], wav.readframes(wav.getnframes() if samples < 0 else samples)


_NOT_A_WAVE = wave.Error, EOFError, OSError, ValueError, RuntimeError
_NOT_A_SOUND = soundfile.SoundFileError, RuntimeError, TypeError, UnicodeError


def read_clip(
    path: str | Path,
    start: int = 0,
    gain: float = 1.0,
    samples: int = CLIP_SAMPLES,
    sample_rate: int = SAMPLE_RATE,
) -> np.ndarray:
    """One second of a recording: float32 [16,000] in [-1, 1], zeros after its end.

    Parameters
    ----------
    start : first sample to read
    gain : factor for all samples
    samples : how many to return; -1 for all that the file has
    sample_rate : in Hz, which the file must have

    Raises
    ------
    CourseError: the file cannot be read, has another rate or more channels, or floats beyond full scale; or an option cannot be.
    """
    if start < 0 or samples < -1 or not np.isfinite(gain):
        raise CourseError(f"start={start}, samples={samples}, gain={gain}: no part of a recording")
    wanted = f"convert it to {sample_rate / 1000:g} kHz 16-bit mono wav"
    try:
        (channels, width, rate, _), sound = _read_wave(path, start, samples)
        stored = np.frombuffer(sound, "<i2", len(sound) // 2) if (channels, width) == (1, 2) else None
    except _NOT_A_WAVE:
        stored = None
    if stored is not None and rate == sample_rate:
        return _padded(stored * np.float32(gain / FULL_SCALE), samples)
    try:
        pcm, rate = soundfile.read(path, samples, start, dtype="float32")
    except _NOT_A_SOUND as error:
        raise CourseError(
            f"{as_text(path)}: cannot be read ({as_text(str(error))}). Take it out, or {wanted}"
        ) from error
    if rate != sample_rate or pcm.ndim != 1:
        raise CourseError(f"{as_text(path)}: {rate:,} Hz, {pcm[:1].size} channel(s); {wanted}")
    if not np.abs(pcm).max(initial=0) <= 1:  # floats may be anything, also not a number
        raise CourseError(f"{as_text(path)}: amplitudes beyond full scale; {wanted}")
    return _padded(pcm * np.float32(gain), samples)


def _padded(pcm: np.ndarray, samples: int) -> np.ndarray:
    """PCM with zeros up to a number of samples; np.pad takes as long as reading the file, also where nothing is missing."""
    if len(pcm) >= samples:
        return pcm
    padded = np.zeros(samples, pcm.dtype)
    padded[: len(pcm)] = pcm
    return padded


def read_clips(rows: pd.DataFrame) -> np.ndarray:
    """PCM of some rows of a manifest (path, start, gain): float32 [n, 16,000]."""
    clips = np.empty((len(rows), CLIP_SAMPLES), "float32")
    for clip, path, start, gain in zip(clips, rows.path, rows.start, rows.gain):
        clip[:] = read_clip(path, start, gain)
    return clips


def check_wav(path: str | Path) -> tuple[str, int, str]:
    """What is wrong with a recording, in words; its number of samples; a digest of its sound.

    Nothing is wrong ("") with a whole 16 kHz 16-bit mono wav that both of our libraries read alike.
    """
    if not is_text(path):
        return "a name that is no UTF-8: rename it", 0, ""
    try:
        (channels, width, rate, frames), pcm = _read_wave(path)
    except _NOT_A_WAVE as error:
        return f"not a PCM wav file ({str(error) or 'empty'})", 0, ""
    samples = len(pcm) // (channels * width)
    digest = hashlib.blake2b(pcm.strip(b"\0"), digest_size=8).hexdigest()
    fault = "" if frames else "holds no samples"
    if samples < frames:
        fault = f"truncated: {samples:,} of {frames:,} samples"
    if (channels, width, rate) != (1, 2, SAMPLE_RATE):
        fault = f"{channels} channel(s), {8 * width} bits, {rate:,} Hz: wanted 1, 16 bits, 16,000 Hz"
    if not fault and not _soundfile_agrees(path, pcm):
        fault = "a wav file that two readers understand differently"
    return fault, samples, digest


def _soundfile_agrees(path: str | Path, pcm: bytes) -> bool:
    try:
        return soundfile.read(path, dtype="int16")[0].tobytes() == pcm
    except _NOT_A_SOUND:
        return False


def write_wav(path: str | Path, clip: Sequence[float] | np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Write float PCM [n] in [-1, 1] as 16-bit mono wav, 16 kHz as a rule; the file is there whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _wav_file(clip, sample_rate))


def _wav_file(clip: Sequence[float] | np.ndarray, sample_rate: int) -> bytes:
    """The bytes of a 16-bit mono wav file; in memory, since soundfile would not say that the disk is full."""
    content = io.BytesIO()
    soundfile.write(content, clip, sample_rate, subtype="PCM_16", format="WAV")
    return content.getvalue()


class Player:
    """Sounds with their titles, as a notebook shows them: what `listen` returns."""

    def __init__(self, sounds: dict[str, np.ndarray], rate: int, made: bool) -> None:
        self.sounds, self.rate, self.made = sounds, rate, made

    def __repr__(self) -> str:
        return "\n".join(f"▶ {title or 'a sound'}: plays when you run this page" for title in self.sounds)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        """Players as HTML, and a text for where none is shown; the metadata names recordings of people."""
        players = ""
        for title, sound in self.sounds.items():
            file = base64.b64encode(_wav_file(np.clip(sound, -1, 1), self.rate)).decode()
            source = f"data:audio/wav;base64,{file}"
            players += (
                f'<figure style="margin:0"><figcaption>{html.escape(title)}</figcaption>'
                f'<audio controls preload="none" src="{source}"></audio></figure>'
            )
        page = f'<div style="display:flex;flex-wrap:wrap;gap:1em">{players}</div>'
        return {"text/html": page, "text/plain": repr(self)}, {"sound": "made" if self.made else "recording"}


def listen(
    sounds: np.ndarray | dict[str, np.ndarray],
    title: str = "",
    rate: int = SAMPLE_RATE,
    made: bool = False,
) -> Player:
    """Players for a notebook: one sound, float [samples] in [-1, 1], with a title, or a dictionary of titles and sounds.

    `made` says that a machine made them: only such players are kept in pages that are committed. Recordings of people
    play for whoever runs the page (tools/course.py --in-place takes them out).
    """
    if not isinstance(sounds, dict):
        sounds = {title: sounds}
    return Player(
        {str(name): np.asarray(sound, "float32").ravel() for name, sound in sounds.items()}, rate, made
    )


def coloured_noise(samples: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Noise with power ~ 1/f**exponent (level below 20 Hz): float64 [samples], root mean square 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE), 20.0)
    noise = np.fft.irfft(spectrum * frequency ** (-exponent / 2), samples)
    return noise / np.sqrt(np.mean(noise**2))


NOISE_COLOURS = {"white": 0, "pink": 1, "brown": 2, "blue": -1, "violet": -2}  # exponents


def noise_bank(colour: str, seconds: int = 20, seed: int = 0) -> np.ndarray:
    """Noise of a colour of NOISE_COLOURS: float32 [16,000 seconds], root mean square 1."""
    rng = np.random.default_rng(seed)
    return coloured_noise(seconds * SAMPLE_RATE, NOISE_COLOURS[colour], rng).astype("float32")


def no_recordings(folder: str | Path) -> CourseError:
    """The error for a corpus without recordings where they are expected; it names one that was found elsewhere."""
    expected = f"{as_text(audio_folder(folder))}/<word>/<speaker>_nohash_<n>.wav"
    elsewhere = next(_sounds_below(folder), None)
    there = (
        f"There is {as_text(elsewhere)}: move it, or name its folder"
        if elsewhere
        else "There are none elsewhere"
    )
    return CourseError(f"{as_text(folder)}: no recordings. They are expected as {expected}. {there}")


def _sounds_below(folder: str | Path) -> Iterator[Path]:
    """Sound files anywhere below a folder, neither noise nor test clips."""
    for at, folders, files in os.walk(folder):
        folders.sort()
        if Path(at).name != NOISE_WORD and Path(at).parts[-2:] != ("test", "audio"):
            named = (Path(at) / name for name in sorted(files) if not name.startswith("."))
            yield from (path for path in named if path.suffix.lower() in SOUND_SUFFIXES)
