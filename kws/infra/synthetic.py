"""Corpora that a machine makes: words spoken by espeak-ng, background noise, and clips with several labels."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.signal
import soundfile
import soxr
from tqdm import tqdm

from kws.audio import (
    CLIP_SAMPLES,
    FULL_SCALE,
    NOISE_WORD,
    SAMPLE_RATE,
    coloured_noise,
    write_wav,
)
from kws.infra.files import (
    MORE_FILES,
    CourseError,
    exclusive_write,
    is_made,
    part_of,
    read_csv,
    remove,
    write_csv,
    write_json,
)
from kws.split import LABELS, which_split

ACCENTS = "en en-us en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd en-029 en-us-nyc".split()


VARIANTS = (
    "f1 f4 m1 m2 m3 m4 m5 m6 m7 m8 klatt klatt2 klatt4 Alex Andrea Andy Annie Denis Diogo Hugo Jacky Lee "
    "Marco Mario Michael Mike Nguyen Storm adam anika antonio aunty belinda benjamin boris david ed "
    "edward gustave ian iven john linda marcelo max michel miguel norbert pablo paul quincy rob shelby "
    "steph travis zac croak grandma grandpa"
).split()


SPOKEN_WORDS = (
    "yes no up down left right on off stop go bed bird cat dog eight five four happy house marvin nine one seven sheila six "
    "three tree two wow zero"
).split()


NEW_WORDS = "backward forward follow learn visual water music window".split()


SYNTHETIC_SIZES = {  # voices, takes of each word, voices of the test clips, seconds of noise
    "smoke": (20, 1, 3, 20),
    "sample": (60, 2, 12, 60),
    "full": (1_080, 2, 120, 90),
}


@functools.cache
def _copies_folder() -> tempfile.TemporaryDirectory:
    """Temporary folder for copies of a library, there until the process ends.

    Were a copy deleted earlier, its place on disk could be used again, and the system take the next copy for the old one.
    """
    return tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


def _check_open_files() -> None:
    """CourseError unless some more files can be opened: without them espeak-ng speaks without its dictionary."""
    try:
        for file in [open(os.devnull, "rb") for _ in range(4)]:
            file.close()
    except OSError as error:
        raise CourseError(f"espeak-ng: {error.strerror}. {MORE_FILES}") from error


def load_espeak() -> Callable:
    """Load a fresh espeak-ng, which has not said anything yet, and return its speaking function.

    Returns
    -------
    say : function (text, voice, rate=175, pitch=50, pitch_range=50) -> float32 [n] in [-1, 1] at 22,050 Hz
        `voice` is an espeak-ng name such as "en-us+f1", `rate` is in words a minute, `pitch` and `pitch_range` are 0-99.

    Raises
    ------
    CourseError: the library cannot be loaded, or a voice is not there.

    Source: speak_lib.h of espeak-ng 1.52.
    """
    synchronous, dont_exit, utf8 = 2, 0x8000, 1
    rate_parameter, pitch_parameter, range_parameter = 1, 3, 4
    _check_open_files()
    try:
        import espeakng_loader

        folder = tempfile.mkdtemp(dir=_copies_folder().name)
        library = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), folder))
    except (ImportError, OSError) as error:
        raise CourseError(f"espeak-ng cannot be loaded ({error}): pip install espeakng-loader") from error
    data_path = str(espeakng_loader.get_data_path())
    if library.espeak_Initialize(synchronous, 0, data_path.encode(), dont_exit) != 22_050:
        raise CourseError(
            f"espeak-ng does not start with {data_path}: use a shorter path for the environment"
        )
    chunks = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples, count, _events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(collect)
    library.collect = collect  # the library calls it as long as it lives

    def say(text, voice, rate=175, pitch=50, pitch_range=50):
        _check_open_files()
        if library.espeak_SetVoiceByName(voice.encode()):
            raise CourseError(f"espeak-ng has no voice {voice}")
        for parameter, value in (
            (rate_parameter, rate),
            (pitch_parameter, pitch),
            (range_parameter, pitch_range),
        ):
            library.espeak_SetParameter(parameter, int(value), 0)
        chunks.clear()
        text = text.encode()
        library.espeak_Synth(text, len(text) + 1, 0, 1, 0, utf8, None, None)
        library.espeak_Synchronize()
        if not chunks:
            raise CourseError(f"espeak-ng says nothing for {text.decode()!r}. Name a word")
        return np.concatenate(chunks).astype("float32") / FULL_SCALE

    return say


class Voice(NamedTuple):
    """A synthetic speaker: espeak-ng voice, words/minute, pitch 0-99, tract length ratio, loudest sample, room noise in dB."""

    speaker: str
    name: str
    rate: int
    pitch: int
    pitch_range: int
    tract: float
    loudness: float
    snr: float


def make_voices(n: int, seed: int = 0, accents: Sequence[str] = ACCENTS) -> list[Voice]:
    """`n` different voices; of every ten, the official rule puts eight into train, one into val, one into test.

    `accents` are espeak-ng's names of a language or of several ways to speak it.
    """
    rng = np.random.default_rng(seed)
    names = [f"{accent}+{variant}" for variant in VARIANTS for accent in accents]
    order = rng.permutation(np.resize(np.arange(len(names)), max(n, len(names))))
    voices, taken = [], set()
    for i in range(n):
        wanted = {8: "val", 9: "test"}.get(i % 10, "train")
        while (speaker := rng.bytes(4).hex()) in taken or which_split(speaker) != wanted:
            pass
        taken.add(speaker)
        voices.append(
            Voice(
                speaker,
                names[order[i]],
                rate=int(rng.integers(120, 220)),
                pitch=int(rng.integers(15, 90)),
                pitch_range=int(rng.integers(20, 80)),
                tract=float(rng.uniform(0.88, 1.12)),
                loudness=float(rng.uniform(0.1, 0.9)),
                snr=float(rng.uniform(10, 40)),
            )
        )
    return voices


def utter(say: Callable, voice: Voice, word: str, rng: np.random.Generator) -> np.ndarray:
    """One recording of `word`: float32 [n], n <= 16,000; one in ten is shorter than a second, as in the real corpus.

    `say` is what `load_espeak` returns, `voice` a Voice, `rng` a numpy generator.
    """
    rate = voice.rate * rng.uniform(0.9, 1.1)
    pitch = np.clip(voice.pitch + rng.uniform(-8, 8), 0, 99)
    spoken = say(word, voice.name, rate, pitch, voice.pitch_range)
    spoken = soxr.resample(spoken, 22_050 * voice.tract, SAMPLE_RATE)[:CLIP_SAMPLES]
    length = CLIP_SAMPLES if rng.random() < 0.9 else int(rng.integers(len(spoken), CLIP_SAMPLES + 1))
    clip = np.zeros(length)
    onset = int(rng.integers(0, length - len(spoken) + 1))
    clip[onset : onset + len(spoken)] = spoken
    noise = coloured_noise(length, rng.uniform(0, 2), rng)
    clip += noise * np.sqrt(np.mean(spoken**2)) * 10 ** (-voice.snr / 20)
    return (clip * voice.loudness * rng.uniform(0.7, 1) / np.abs(clip).max()).astype("float32")


def make_noises(folder: str | Path, seconds: int = 60, seed: int = 0) -> None:
    """Write six background recordings (16 kHz, 16 bits, mono wav) of `seconds` each into `folder`: 2 s or more."""
    if seconds < 2:
        raise CourseError(f"seconds={seconds}: 2 or more are wanted")
    n, t = seconds * SAMPLE_RATE, np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    rng = np.random.default_rng(seed)
    say, babble = load_espeak(), np.zeros(n)
    for accent in np.resize(ACCENTS, 6 * seconds):
        voice = soxr.resample(
            say("zero marvin sheila", f"{accent}+m3", 150, rng.integers(20, 80)), 22_050, SAMPLE_RATE
        )
        at = int(rng.integers(0, n - len(voice)))
        babble[at : at + len(voice)] += voice[::-1]
    taps = np.zeros(n)
    taps[rng.integers(0, n, 4 * seconds)] = rng.uniform(0.2, 1, 4 * seconds)
    knock = np.exp(-np.arange(2_000) / 300) * np.sin(np.arange(2_000) / 8)
    recordings = {
        "white_noise": coloured_noise(n, 0, rng),
        "pink_noise": coloured_noise(n, 1, rng),
        "rumble": coloured_noise(n, 2, rng),
        "mains_hum": sum(np.sin(2 * np.pi * 50 * k * t) / k for k in (1, 2, 3, 5))
        + 0.2 * coloured_noise(n, 1, rng),
        "backward_babble": babble + 0.02 * coloured_noise(n, 1, rng),
        "knocking": np.convolve(taps, knock)[:n] + 0.02 * coloured_noise(n, 1, rng),
    }
    for name, noise in recordings.items():
        write_wav(Path(folder) / f"{name}.wav", 0.5 * noise / np.abs(noise).max())


def _synthetic_jobs(folder, size, seed, words, accents):
    """What a synthetic corpus consists of: for each voice a list of (path, voice, word), and the solution (fname, label)."""
    n_voices, takes, n_test_voices, _ = size
    jobs, solution = [], []
    test_words = [word for word in words if word in LABELS]
    test_words += [word for word in words if word not in LABELS][::4] + NEW_WORDS
    for i, voice in enumerate(make_voices(n_voices + n_test_voices, seed, accents)):
        if i < n_voices:
            spoken = [(word, take) for word in words for take in range(takes)]
            paths = [(f"train/audio/{word}/{voice.speaker}_nohash_{take}.wav", word) for word, take in spoken]
        else:
            digests = {
                word: hashlib.sha1((voice.speaker + word).encode()).hexdigest()[:9] for word in test_words
            }
            paths = [(f"test/audio/clip_{digest}.wav", word) for word, digest in digests.items()]
            solution += [
                (f"clip_{digest}.wav", word if word in LABELS else "unknown")
                for word, digest in digests.items()
            ]
        jobs.append([(Path(folder) / path, voice, word) for path, word in paths])
    return jobs, solution


def _write_silent_tests(folder, count, seed):
    """Write `count` test clips that hold only a room's noise, not the background recordings'; return (name, label) rows."""
    rows = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        noise = coloured_noise(CLIP_SAMPLES, rng.uniform(0, 2), rng)
        name = f"clip_{hashlib.sha1(f'silence{i}'.encode()).hexdigest()[:9]}.wav"
        write_wav(folder / "test/audio" / name, rng.uniform(0.001, 0.3) * noise / np.abs(noise).max())
        rows.append((name, "silence"))
    return rows


def _speak(jobs, seed, progress, words):
    """Speak and write some clips, given as (path, voice, word), with a fresh espeak-ng."""
    say, texts = load_espeak(), words if isinstance(words, dict) else {}
    for path, voice, word in jobs:
        rng = np.random.default_rng([seed, *path.name.encode(), *word.encode()])
        write_wav(path, utter(say, voice, texts.get(word, word), rng))
        progress.update()


def make_synthetic(
    folder: str | Path,
    profile: str = "sample",
    seed: int = 0,
    sizes: dict[str, tuple] | None = None,
    words: tuple[str, ...] | dict[str, str] = SPOKEN_WORDS,
    accents: Sequence[str] = ACCENTS,
) -> Path:
    """Speak a corpus in the contest's layout into `folder`, and return `folder`.

    The same seed and profile give the same files. Interrupted, the next call goes on with the voices that are missing,
    in blocks of twenty; what was begun with other settings is deleted.

    Parameters
    ----------
    profile : a key of `sizes` (default: SYNTHETIC_SIZES): voices, takes of each word, voices of the test clips, seconds of noise
    words : what training, validation and test voices say; the test voices say NEW_WORDS, too. {word: text} where espeak-ng is
        to be given another text than the name of the word's folder
    accents : names of espeak-ng's voices, such as ("ar",)
    """
    folder = Path(folder)
    sizes = sizes or SYNTHETIC_SIZES
    if profile not in sizes:
        raise CourseError(f"profile={profile}: there are {', '.join(sizes)}")
    size = sizes[profile]
    note = folder / "made.json"
    begun = part_of(note)
    settings = {"size": size, "seed": seed, "words": words}
    settings |= {} if accents is ACCENTS else {"accents": accents}
    if is_made(note, settings):
        return folder
    with exclusive_write(folder):
        if is_made(note, settings):  # the run that was waited for has made it
            return folder
        if not is_made(begun, settings):
            if begun.exists() or note.exists():
                remove(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(begun, settings)
        make_noises(folder / "train/audio" / NOISE_WORD, size[3], seed)
        jobs, solution = _synthetic_jobs(folder, size, seed, words, accents)
        blocks = [sum(jobs[at : at + 20], []) for at in range(0, len(jobs), 20)]
        todo = [block for block in blocks if not all(path.exists() for path, _, _ in block)]
        bar = {"desc": "speaking", "unit": "clip", "mininterval": 1}
        with tqdm(total=sum(map(len, todo)), **bar) as progress:
            for block in todo:
                _speak(block, seed, progress, words)
        solution += _write_silent_tests(folder, count=len(solution) // 10, seed=seed)
        solution = pd.DataFrame(solution, columns=["fname", "label"]).sort_values("fname")
        public = np.random.default_rng(seed).random(len(solution)) < 0.3
        solution["Usage"] = np.where(public, "Public", "Private")
        write_csv(folder / "solution.csv", solution)
        write_csv(folder / "sample_submission.csv", solution.assign(label="silence")[["fname", "label"]])
        begun.replace(note)
    return folder


# several sounds in a clip


def harmonics(t: np.ndarray, frequencies: Sequence[float], decay: float) -> np.ndarray:
    """Sum of sines that fade: times [n] in seconds, frequencies in Hz, seconds in which they fall to a third. [n]"""
    return sum(np.sin(2 * np.pi * f * t) * np.exp(-t / decay) / (i + 1) for i, f in enumerate(frequencies))


def band_noise(t: np.ndarray, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Noise between two frequencies in Hz, at the times [n]."""
    filters = scipy.signal.butter(4, (low, high), "bandpass", fs=round(1 / t[1]), output="sos")
    return scipy.signal.sosfilt(filters, rng.standard_normal(len(t)))


def beat_phase(t: np.ndarray, rate: float) -> np.ndarray:
    """Seconds since the last of `rate` beats a second, at the times [n]."""
    return (t * rate) % 1 / rate


def lfo(t: np.ndarray, rate: float) -> np.ndarray:
    """Between 0 and 1, `rate` times a second, at the times [n]."""
    return 0.5 + 0.5 * np.sin(2 * np.pi * rate * t)


SOUNDS = {  # functions (times [n] in seconds, numpy generator) -> sound [n]
    "bell": lambda t, r: harmonics(t, r.uniform(400, 900) * np.array([1, 2.0, 2.4, 3, 4.5]), 0.4),
    "bursts": lambda t, r: band_noise(t, r, 1_000, 4_000) * (lfo(t, r.uniform(3, 7)) > 0.6),
    "buzz": lambda t, r: scipy.signal.sawtooth(2 * np.pi * r.uniform(90, 180) * t),
    "click": lambda t, r: r.standard_normal(len(t)) * np.exp(-beat_phase(t, r.uniform(4, 9)) / 0.002),
    "cricket": lambda t, r: np.sin(2 * np.pi * r.uniform(4e3, 6e3) * t) * (lfo(t, r.uniform(15, 30)) > 0.5),
    "fall": lambda t, r: scipy.signal.chirp(
        t, r.uniform(2e3, 4e3), t[-1], r.uniform(200, 500), "logarithmic"
    ),
    "hiss": lambda t, r: band_noise(t, r, r.uniform(5e3, 7e3), 1.5e4),
    "hum": lambda t, r: harmonics(t, r.choice([50, 60]) * np.array([1, 2, 3, 5]), 9.0),
    "knock": lambda t, r: harmonics(
        beat_phase(t, r.uniform(2, 4)), r.uniform(150, 350) * np.array([1, 1.6]), 0.03
    ),
    "plucked": lambda t, r: harmonics(
        beat_phase(t, r.uniform(1.5, 3)), r.uniform(150, 400) * np.arange(1, 9), 0.15
    ),
    "rise": lambda t, r: scipy.signal.chirp(
        t, r.uniform(200, 500), t[-1], r.uniform(2e3, 4e3), "logarithmic"
    ),
    "rumble": lambda t, r: band_noise(t, r, 30, r.uniform(120, 200)),
    "siren": lambda t, r: np.sin(2 * np.pi * np.cumsum(700 + 500 * lfo(t, r.uniform(1, 3))) * t[1]),
    "square": lambda t, r: scipy.signal.square(2 * np.pi * r.uniform(200, 600) * t),
    "tremolo": lambda t, r: np.sin(2 * np.pi * r.uniform(500, 1_500) * t) * lfo(t, r.uniform(4, 8)),
    "whistle": lambda t, r: np.sin(2 * np.pi * r.uniform(800, 2_500) * t),
}


TAG_SIZES = {"train_curated": 80, "train_noisy": 600, "validation": 60, "test": 240}


Spans = list[tuple[float, float]]  # when each sound begins and ends in a clip, in seconds


def mixture(
    sounds: Sequence[str], rng: np.random.Generator, sample_rate: int = 44_100
) -> tuple[np.ndarray, Spans]:
    """A clip of 0.6 to 3 s with some of SOUNDS at random places and levels, over noise: float [n] in [-1, 1]; their times."""
    clip, spans = np.zeros(int(rng.uniform(0.6, 3) * sample_rate)), []
    for sound in sounds:
        t = np.arange(int(rng.uniform(0.5, 1) * len(clip))) / sample_rate
        wave, at = SOUNDS[sound](t, rng), rng.integers(0, len(clip) - len(t) + 1)
        level = 10 ** (-rng.uniform(0, 15) / 20) / np.sqrt(np.mean(wave**2))
        clip[at : at + len(t)] += level * wave
        spans.append((at / sample_rate, (at + len(t)) / sample_rate))
    clip += 10 ** (-rng.uniform(5, 25) / 20) * coloured_noise(len(clip), rng.uniform(0, 2), rng)
    return clip * rng.uniform(0.3, 0.9) / np.abs(clip).max(), spans


def mix_recordings(
    sounds: Sequence[np.ndarray], rng: np.random.Generator, sample_rate: int = 44_100
) -> tuple[np.ndarray, Spans]:
    """A clip of up to 4 s with 1.5 to 3 s of each sound [at least 3 s], somewhere in it: float [n] in [-1, 1]; their times.

    The loudest moment of a sound is in its part, since many recordings are silent for most of the time. Each part gets the same
    mean power, then a gain of -9 to 0 dB; nothing is added.
    """
    lengths = [round(rng.uniform(1.5, 3) * sample_rate) for _ in sounds]
    clip, spans = np.zeros(round(rng.uniform(max(lengths), 4 * sample_rate))), []
    for sound, length in zip(sounds, lengths):
        first = int(np.abs(sound).argmax() - rng.uniform(0.1, 0.6) * length)
        first = np.clip(first, 0, len(sound) - length)
        part, at = sound[first : first + length], rng.integers(0, len(clip) - length + 1)
        clip[at : at + length] += 10 ** (-rng.uniform(0, 9) / 20) * part / np.sqrt(np.mean(part**2))
        spans.append((at / sample_rate, (at + length) / sample_rate))
    return clip * rng.uniform(0.3, 0.9) / np.abs(clip).max(), spans


def corrupt_labels(
    labels: Sequence[str],
    rng: np.random.Generator,
    wrong: float = 0.4,
    missing: float = 0.2,
    names: Sequence[str] = tuple(SOUNDS),
) -> list[str]:
    """Labels as the web has them: a share of them missing (not all); of the others a share is the next one of `names` instead."""
    following = dict(zip(names, [*names[1:], names[0]]))
    kept = [label for label in labels if rng.random() >= missing] or [labels[0]]
    return sorted({following[label] if rng.random() < wrong else label for label in kept})


FOLDS = {"train_curated": (1,), "train_noisy": (1, 2, 3), "validation": (4,), "test": (5,)}


def _made_clips(names: Sequence[str], part: str) -> Callable:
    """Function (number, generator) -> a clip of one to three SOUNDS, their times, their names, no recordings."""

    def make(i, rng):
        others = rng.choice(np.delete(names, i % len(names)), rng.choice(3, p=[0.4, 0.35, 0.25]), False)
        labels = [names[i % len(names)], *others.tolist()]
        return *mixture(labels, rng), labels, []

    return make


def _recorded_clips(folder: Path, table: pd.DataFrame, part: str) -> Callable:
    """Function (number, generator) -> a mixture of two or three recordings of a part's FOLDS, their times, labels, names."""
    own = table[table.fold.isin(FOLDS[part])].groupby("label").fname.apply(list)

    def make(i, rng):
        first = own.index[i % len(own)]
        labels = [first, *rng.choice(own.index.drop(first), rng.integers(1, 3), False)]
        files = [str(rng.choice(own[label])) for label in labels]
        sounds = [soundfile.read(folder / "audio" / name, dtype="float32")[0] for name in files]
        return *mix_recordings(sounds, rng), labels, files

    return make


def make_tags(
    folder: str | Path,
    sizes: dict[str, int] = TAG_SIZES,
    seed: int = 0,
    recordings: str | Path | None = None,
) -> Path:
    """A corpus in the layout of DCASE 2019 task 2, with a solution.csv; `sizes` are the clips of each part (keys of FOLDS).

    The clips are made sounds, or mixtures of `recordings` (the folder of `kws.infra.corpora.fetch_esc10`), each part of its
    FOLDS; only those of training share one. Besides fname and labels, the tables have the recordings that are in a clip, the
    seconds from when to when each is heard (0.52-2.31), and that of the noisy part the labels before they were spoiled (truth).
    What is there for the same arguments is kept; anything else in the folder is deleted.
    """
    folder = Path(folder)
    note, settings = folder / "made.json", {"sizes": sizes, "seed": seed}
    settings |= {"recordings": recordings and Path(recordings).name, "folds": FOLDS, "format": 2}
    if is_made(note, settings):
        return folder
    remove(folder)
    folder.mkdir(parents=True)
    names, maker = list(SOUNDS), functools.partial(_made_clips, list(SOUNDS))
    if recordings:
        table = read_csv(Path(recordings) / "esc10.csv", ("fname", "label", "fold"))
        names, maker = sorted(set(table.label)), functools.partial(_recorded_clips, Path(recordings), table)
    for number, (part, count) in enumerate(sizes.items()):
        rows, make = [], maker(part)
        for i in tqdm(range(count), desc=part, unit="clip", mininterval=1):
            rng = np.random.default_rng([seed, number, i])
            clip, spans, labels, files = make(i, rng)
            fname = f"{part.removeprefix('train_')}{i:04}.wav"
            write_wav(folder / part / fname, clip, 44_100)
            written = corrupt_labels(labels, rng, names=names) if part == "train_noisy" else sorted(labels)
            order = np.argsort(labels)  # recordings and times stand in the order of the right labels
            files = [files[k] for k in order] if files else []
            times = [f"{spans[k][0]:.2f}-{spans[k][1]:.2f}" for k in order]
            rows.append((fname, *map(",".join, (written, sorted(labels), files, times))))
        table = pd.DataFrame(rows, columns=["fname", "labels", "truth", "recordings", "times"])
        if part != "train_noisy":
            del table["truth"]
        write_csv(folder / ("solution.csv" if part == "test" else f"{part}.csv"), table)
    sample = pd.DataFrame(0, index=pd.Index([row[0] for row in rows], name="fname"), columns=names)
    write_csv(folder / "sample_submission.csv", sample.reset_index())
    write_json(note, settings)
    return folder
