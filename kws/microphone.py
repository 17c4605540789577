"""A laptop's microphone: its sound in chunks, its level, words as they are heard, and words recorded for a corpus."""

from __future__ import annotations

import itertools
import os
import queue
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kws import pi
from kws.audio import (
    CLIP_SAMPLES,
    NOISE_WORD,
    SAMPLE_RATE,
    is_text,
    same_name,
    to_float,
    visible_files,
    write_wav,
)
from kws.infra.files import CourseError, quiet_stderr
from kws.pretrained import Pretrained, load_pretrained, loudest_second, top

CHUNK_MS = 100
HINT = "Plug one in, or allow the terminal to use it in the system's settings for privacy"
NONE = f"no microphone was found. {HINT}"
MUTED = "the microphone gives nothing but zeros: is it muted, or may the terminal not use it (the system's settings for privacy)?"
QUIETEST = -60.0  # dB of full scale that a meter shows


def _miniaudio() -> Any:
    """The library miniaudio, or None where it has no wheels: there arecord stands in."""
    try:
        import miniaudio
    except ImportError:
        return None
    return miniaudio


def microphones() -> list[str]:
    """Names of the microphones of this machine, the default one first; empty where there is none."""
    library = _miniaudio()
    if library is None:
        return []
    try:
        return [device["name"] for device in _captures(library)]
    except library.MiniaudioError:
        return []


def _captures(library: Any) -> list[dict]:
    """The devices that record; those of ALSA and miniaudio that only give silence are none."""
    with quiet_stderr():
        devices = library.Devices()
        found = [] if devices.backend == "Null" else devices.get_captures()
    return [device for device in found if not device["name"].startswith("Discard all samples")]


def _device_id(library: Any, name: str) -> Any:
    """The device with a name, or a part of one, in either case of letters."""
    try:
        devices = _captures(library)
    except library.MiniaudioError:
        devices = []
    if not devices:
        raise CourseError(NONE)
    found = [device for device in devices if name.casefold() in device["name"].casefold()]
    if not found:
        there = ", ".join(device["name"] for device in devices)
        raise CourseError(f"{name}: no such microphone. There are: {there}")
    return found[0]["id"]


def microphone(device: str = "", backends: Iterable[Any] = ()) -> Iterator[np.ndarray]:
    """Chunks of a tenth of a second from a microphone, for ever: float32 [1,600] in [-1, 1], 16 kHz. CourseError without one.

    Parameters
    ----------
    device : part of its name; the system's default one if empty
    backends : of miniaudio, in place of the system's
    """
    library = _miniaudio()
    if library is None:
        try:
            yield from pi.microphone(CHUNK_MS, device or None)
        except SystemExit as error:  # what pi.py says where it runs alone
            raise CourseError(str(error)) from error
        return
    chosen, backends = None, list(backends)
    if not backends:
        chosen = _device_id(library, device)
        chosen = chosen if device else None
    heard: queue.Queue = queue.Queue()

    def receive():
        while True:
            heard.put((yield))

    receiver = receive()
    next(receiver)
    settings = {"input_format": library.SampleFormat.SIGNED16, "nchannels": 1, "sample_rate": SAMPLE_RATE}
    try:
        with quiet_stderr():
            capture = library.CaptureDevice(
                **settings, buffersize_msec=CHUNK_MS // 2, device_id=chosen, backends=backends
            )
            capture.start(receiver)
    except library.MiniaudioError as error:
        raise CourseError(f"the microphone cannot be used ({error.args[0]}). {HINT}") from error
    sound, size, silent = b"", 2 * SAMPLE_RATE * CHUNK_MS // 1_000, 0
    with capture:
        while True:
            try:
                sound += heard.get(timeout=pi.PATIENCE)
            except queue.Empty:
                raise CourseError("the microphone gives no more sound. Is it plugged in?") from None
            while len(sound) >= size:
                chunk = to_float(np.frombuffer(sound[:size], "<i2"))
                silent = -1 if chunk.any() or silent < 0 else silent + 1  # -1: something was heard
                if silent == 30:  # chunks, three seconds: no room is as silent as that
                    print(f"\n{MUTED}", file=sys.stderr)
                yield chunk
                sound = sound[size:]


def in_chunks(sound: np.ndarray) -> Iterator[np.ndarray]:
    """A sound, float32 [n] of 16 kHz, as a microphone would give it, with a second of silence after it."""
    padded, size = np.pad(sound, (0, CLIP_SAMPLES)), SAMPLE_RATE * CHUNK_MS // 1_000
    return (padded[at : at + size] for at in range(0, len(padded) - size + 1, size))


def level(sound: np.ndarray) -> float:
    """Root mean square of a sound in dB of full scale; -inf for nothing.

    >>> round(level(np.full(1_600, 0.1)), 3)
    -20.0
    """
    power = float(np.mean(np.square(sound, dtype="float64"))) if len(sound) else 0.0
    return float(10 * np.log10(power)) if power else -np.inf


def meter(decibels: float, width: int = 30) -> str:
    """A level as a bar of text, from -60 dB (nothing) to 0 dB (full).

    >>> meter(-30, 10)
    '|#####     |  -30 dB'
    """
    share = np.clip(1 - decibels / QUIETEST, 0, 1) if np.isfinite(decibels) else 0
    number = f"{decibels:4.0f} dB" if np.isfinite(decibels) else "silent "
    return f"|{'#' * round(share * width):<{width}}| {number}"


def listen(
    model: Pretrained,
    chunks: Iterable[np.ndarray],
    threshold: float = 0.7,
    show_level: bool = False,
) -> Iterator[tuple[float, str, float]]:
    """Words as they are heard in chunks of sound: (seconds since the start, word, probability).

    With `show_level` a meter moves on the last line of the terminal (stderr).
    """
    chunks = iter(chunks)
    metered = _with_meter(chunks) if show_level else chunks
    detector = pi.KeywordDetector(model.labels, threshold)
    for ms, second in pi.sliding_windows(metered):
        if word := detector.update(ms, model.predict(second)):
            yield ms / 1_000, *word


def _with_meter(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same chunks; the level of each is shown on the last line of the terminal."""
    try:
        for chunk in chunks:
            print(f"\r{meter(level(chunk))} ", end="", file=sys.stderr, flush=True)
            yield chunk
    finally:
        print("\r" + " " * 45 + "\r", end="", file=sys.stderr, flush=True)


def record_clip(seconds: float = 1.0, device: str = "") -> np.ndarray:
    """Some seconds from the microphone, from now on: float32 [n], 16 kHz. CourseError where there is no microphone."""
    return take(microphone(device), seconds)


def take(chunks: Iterator[np.ndarray], seconds: float) -> np.ndarray:
    """The next seconds of a microphone: float32 [n]."""
    wanted = round(seconds * 1_000 / CHUNK_MS)
    return np.concatenate(list(itertools.islice(chunks, max(wanted, 1)))).astype("float32")


def skip_old(chunks: Iterator[np.ndarray]) -> None:
    """Leave out what a microphone has heard already: chunks that were waiting come at once, a new one takes its time."""
    while True:
        start = time.perf_counter()
        next(chunks)
        if time.perf_counter() - start > CHUNK_MS / 5_000:
            return


def hear_a_word(model: Pretrained | None = None, seconds: float = 1.5) -> str:
    """Record a word now and say what it is: the three most probable labels; or why nothing was recorded.

    `model` is what `load_pretrained` or `open_model` returns; without one it is the model of the package. It listens only where
    LISTEN=1 is set, as `make lab` does: nobody is recorded by running all notebooks in order.
    """
    if os.environ.get("LISTEN") != "1":
        return "Nothing was recorded: this cell listens in `make lab`, or where LISTEN=1 is set."
    try:
        sound = record_clip(seconds)
    except CourseError as error:
        return f"Nothing was recorded: {error}."
    labels = top(model or load_pretrained(), loudest_second(sound)[1])
    return ", ".join(f"{label} {probability:.2f}" for label, probability in labels)


# --- a corpus of one's own words ---

FRAME = 320  # samples, 20 ms
LOUDER = 10.0  # dB that a word must be above its background
CLIPPED = 0.999


def cut_word(sound: np.ndarray) -> np.ndarray:
    """The second around the one word in a recording of some seconds: float32 [16,000].

    Frames of 20 ms that are at least 10 dB above the quietest fifth of them, and within 30 dB of the loudest, are speech; the
    word reaches from the first to the last, over gaps of up to 0.3 s. Its middle becomes the middle of the clip.

    Raises
    ------
    CourseError: it is too quiet, too loud, or longer than a second; the message says what to do.
    """
    frames = np.asarray(sound, "float64")[: len(sound) // FRAME * FRAME].reshape(-1, FRAME)
    if not len(frames):
        raise CourseError("nothing was recorded")
    levels = 10 * np.log10(np.mean(frames**2, 1) + 1e-10)
    background, peak = np.percentile(levels, 20), levels.max()
    if peak < background + LOUDER or peak < QUIETEST + LOUDER:
        raise CourseError("no word was heard above the background. Speak up, or go nearer to the microphone")
    if (np.abs(sound) >= CLIPPED).sum() > 3:
        raise CourseError("too loud, the recording is clipped. Go a little further away")
    speech = np.flatnonzero(levels > max(background + LOUDER, peak - 30))
    at = int(levels.argmax())
    runs = np.split(
        speech, np.flatnonzero(np.diff(speech) > 15) + 1
    )  # a gap of more than 0.3 s parts two sounds
    word = next(run for run in runs if run[0] <= at <= run[-1])
    start, end = int(word[0]) * FRAME, (int(word[-1]) + 1) * FRAME
    if end - start > CLIP_SAMPLES:
        raise CourseError("longer than a second. Say the word alone, and a little faster")
    begin = (start + end) // 2 - CLIP_SAMPLES // 2
    padded = np.pad(np.asarray(sound, "float32"), CLIP_SAMPLES // 2)
    return padded[begin + CLIP_SAMPLES // 2 :][:CLIP_SAMPLES]


def _free_name(folder: Path, speaker: str) -> Path:
    """The next file of a speaker in the folder of a word."""
    there = {path.name for path in visible_files(folder, ".wav")}
    return next(
        folder / f"{speaker}_nohash_{n}.wav"
        for n in itertools.count()
        if f"{speaker}_nohash_{n}.wav" not in there
    )


def check_names(words: Iterable[str], speaker: str) -> tuple[list[str], str]:
    """Words and a speaker's name as folders and files may have them. CourseError where one may not be."""
    words = [same_name(word.strip()) for word in words]
    speaker = same_name(speaker.strip()).casefold().replace(" ", "-").replace("_", "-")
    if not words or len(set(words)) != len(words):
        raise CourseError(f"words {', '.join(words) or '(none)'}: name one or more, each once")
    for name in (*words, speaker):
        if not name or not is_text(name) or re.search(r'[\\/:*?"<>|\0]', name) or name[0] in "._":
            raise CourseError(f"{name!r}: no name for a folder. Use letters, figures and spaces")
    return words, speaker


def record_words(
    words: Iterable[str],
    speaker: str,
    folder: Path,
    takes: int,
    hear: Callable[[float], np.ndarray],
    say: Callable[[str], None] = print,
    wait: Callable[[float], None] = time.sleep,
    noise_seconds: int = 15,
    tries: int = 5,
) -> int:
    """Lead a person through recording words into a corpus, `folder`/<word>/<speaker>_nohash_<n>.wav; returns the clips written.

    First the room is recorded into _background_noise_. Then come `takes` rounds of all words, so that no word of several is said
    twice in a row. A recording that is too quiet, clipped or longer than a second is asked for again; after `tries`
    times the word is passed over. What is there stays; more recordings are added.

    Parameters
    ----------
    hear : function seconds -> float32 [n], what the microphone hears from now on
    say : prints a line
    wait : sleeps for some seconds
    """
    words, speaker = check_names(words, speaker)
    noise = folder / NOISE_WORD / f"{speaker}.wav"
    if not noise.exists():
        say(f"First the room: {noise_seconds} seconds without a word.")
        room = hear(noise_seconds)
        if (np.abs(room) >= CLIPPED).sum() > 3:
            raise CourseError("the room is too loud for the microphone. Turn its level down")
        write_wav(noise, room)
        say(f"  background {level(room):.0f} dB")
    written = 0
    for number in range(1, takes + 1):
        for word in words:
            for _ in range(tries):
                say(f"[{number} of {takes}]  When the line says NOW, say:  {word}")
                for count in ("3", "2", "1"):
                    say(f"  {count}")
                    wait(0.6)
                say("  NOW")
                try:
                    clip = cut_word(hear(2.0))
                except CourseError as error:
                    say(f"  again: {error}")
                    continue
                path = _free_name(folder / word, speaker)
                write_wav(path, clip)
                say(f"  {meter(level(clip), 20)}  {path}")
                written += 1
                break
            else:
                say(f"  {word}: passed over after {tries} tries")
    return written
