"""Run a speech-commands model with LiteRT on a small computer: time it, label wavs, listen, write a submission.

A file by itself: it needs Python 3.10, numpy and ai-edge-litert, and nothing else of the course, and is copied to the Pi.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import selectors
import subprocess
import sys
import time
import unicodedata
import wave
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = 16_000  # a second
MOST_THREADS = 256  # LiteRT crashes with many thousands
PATIENCE = 10  # seconds without sound after which a microphone is given up
CONVERTS = "Take a device that converts: --device plughw:1,0, which is arecord's -D plughw:1,0 (arecord -l lists the cards)"
Predict = Callable[[np.ndarray], np.ndarray]


def new_interpreter(model: str | Path | bytes, threads: int = 1, keep_tensors: bool = False) -> Any:
    """LiteRT interpreter of a .tflite file (path) or its bytes; `keep_tensors` to look at those inside."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        sys.exit("LiteRT is missing: pip install ai-edge-litert")
    source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
    interpreter = Interpreter(**source, num_threads=threads, experimental_preserve_all_tensors=keep_tensors)
    interpreter.allocate_tensors()
    return interpreter


def load_litert(model: str | Path | bytes, threads: int = 1) -> Predict:
    """Function of a LiteRT model: PCM float32 [16,000] -> probabilities float32 [labels].

    Raises
    ------
    ValueError: it is no LiteRT model, or takes or gives something else; `predict` raises it where a result is not a number.
    """
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads={threads}: from 1 to {MOST_THREADS} is wanted")
    name = "model" if isinstance(model, bytes) else str(model)
    if not isinstance(model, bytes) and not Path(model).is_file():
        raise ValueError(f"{name}: there is no such file")
    content = model if isinstance(model, bytes) else Path(model).read_bytes()
    if not content:
        raise ValueError(f"{name}: not a LiteRT model (empty)")
    try:
        interpreter = new_interpreter(content, threads)
    except RuntimeError as error:
        raise ValueError(f"{name}: LiteRT cannot run it ({error})") from error
    except ValueError as error:
        raise ValueError(f"{name}: not a LiteRT model ({error})") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if found := _described(inputs, [1, SAMPLES]):
        raise ValueError(f"{name}: takes {found}, wanted float32 [1, {SAMPLES}]")
    if found := _described(outputs, [1, None]):
        raise ValueError(f"{name}: gives {found}, wanted float32 [1, labels]")

    def predict(pcm: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(inputs[0]["index"], pcm.reshape(1, -1))
        interpreter.invoke()
        probabilities = interpreter.get_tensor(outputs[0]["index"])[0]
        if not np.isfinite(probabilities).all():
            raise ValueError(
                f"{name}: gives {probabilities[~np.isfinite(probabilities)][0]} where a number is wanted"
            )
        return probabilities

    return predict


def _described(tensors: Sequence[dict], wanted: list) -> str:
    """Types and shapes of tensors in words; empty where it is one of float32 and the wanted shape (None: any length)."""
    shapes = [[int(size) for size in tensor["shape"]] for tensor in tensors]
    fits = [
        len(shape) == len(wanted) and all(w in (None, s) for w, s in zip(wanted, shape)) for shape in shapes
    ]
    if fits == [True] and tensors[0]["dtype"] == np.float32:
        return ""
    return " and ".join(f"{np.dtype(t['dtype']).name} {shape}" for t, shape in zip(tensors, shapes))


def load_labels(file: Path, outputs: int) -> list[str]:
    """The labels in a file, one a line, of a model that has so many outputs. ValueError where they are others, or no text."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not text in UTF-8 ({error}). Save it as such") from error
    names = [line.strip() for line in lines if line.strip()]
    if len(names) != outputs:
        raise ValueError(f"{file}: {len(names)} names, the model has {outputs} outputs")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{file}: {repeated[0]} stands there more than once")
    return names


def time_runs(function: Callable[[], Any], runs: int = 200, warm_up: int = 20) -> np.ndarray:
    """Milliseconds of each of `runs` calls of a function without arguments, after `warm_up` calls that do not count."""
    if runs < 1:
        raise ValueError(f"runs={runs}: 1 or more is wanted")
    for _ in range(warm_up):
        function()
    times = np.empty(runs)
    for i in range(runs):
        start = time.perf_counter()
        function()
        times[i] = 1e3 * (time.perf_counter() - start)
    return times


class KeywordDetector:
    """Turns probabilities over time into words: names of the labels, of which the first two are silence and unknown.

    A command is detected where its probability, averaged over `window_ms`, is at least `threshold`; for `suppression_ms` after
    it nothing is. Source: recognize_commands of TensorFlow's audio tutorial.

    Raises
    ------
    ValueError: there are no commands, or a number is out of range.
    """

    def __init__(
        self,
        names: Sequence[str],
        threshold: float = 0.7,
        window_ms: float = 500,
        suppression_ms: float = 1500,
    ):
        if len(names) < 3:
            raise ValueError(f"labels {', '.join(names)}: silence, unknown and a command are the least")
        if not (0 <= threshold <= 1 and window_ms > 0 and suppression_ms >= 0):
            raise ValueError(
                f"threshold={threshold}, window_ms={window_ms}, suppression_ms={suppression_ms}: 0 to 1, more than 0, and 0 or "
                "more are wanted"
            )
        self.names, self.threshold = names, threshold
        self.window_ms, self.suppression_ms = window_ms, suppression_ms
        self.recent: deque = deque()
        self.last = -suppression_ms

    def update(self, ms: float, probabilities: np.ndarray) -> tuple[str, float] | None:
        """The word (name, average probability) that is detected at a time in milliseconds, or None."""
        self.recent.append((ms, probabilities))
        while self.recent[0][0] <= ms - self.window_ms:
            self.recent.popleft()
        mean = np.mean([row for _, row in self.recent], axis=0)
        best = 2 + int(mean[2:].argmax())
        probability = float(mean[best])  # numpy would compare in float32, in which 0.7 is another number
        if probability < self.threshold or ms - self.last < self.suppression_ms:
            return None
        self.last = ms
        return self.names[best], probability


def sliding_windows(chunks: Iterable[np.ndarray]) -> Iterator[tuple[float, np.ndarray]]:
    """The last second after each chunk of sound (float32): its end in milliseconds, and PCM [16,000]."""
    second, samples = np.zeros(SAMPLES, "float32"), 0
    for chunk in chunks:
        second = np.concatenate([second, chunk])[-SAMPLES:]
        samples += len(chunk)
        yield samples / 16, second


def as_text(path: str | Path) -> str:
    """A path as text: on disk it is UTF-8, whatever the locale takes it for. What is not is shown as an escape."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_wav(path: str | Path) -> np.ndarray:
    """First second of a 16 kHz 16-bit mono wav as float32 [16,000]. ValueError where it is something else."""
    try:
        with wave.open(str(path)) as wav:
            kind = wav.getnchannels(), 8 * wav.getsampwidth(), wav.getframerate()
            sound = wav.readframes(SAMPLES)
        samples = np.frombuffer(sound, "<i2", len(sound) // 2) if kind == (1, 16, SAMPLES) else None
    except (wave.Error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{as_text(path)}: cannot be read as wav ({str(error) or 'empty'})") from error
    if samples is None:
        raise ValueError(
            f"{as_text(path)}: {kind[0]} channel(s), {kind[1]} bits, {kind[2]} Hz; wanted 1, 16, 16000"
        )
    return np.pad(samples.astype("float32") / 32_768, (0, SAMPLES - len(samples)))


def wav_files(folder: Path) -> list[Path]:
    """The wav files of a folder by name, without those that a system leaves there (._x.wav)."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() == ".wav")


def microphone(stride_ms: int = 100, device: str | None = None) -> Iterator[np.ndarray]:
    """Chunks of `stride_ms` from the microphone, float32, as ALSA's arecord delivers them.

    Ends the program, with what arecord said, where there is no sound, or sound of another rate.
    """
    if stride_ms < 1:
        raise ValueError(f"stride_ms={stride_ms}: 1 or more is wanted")
    program = "arecord -t raw -f S16_LE -r 16000 -c 1".split() + (["-D", device] if device else [])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        recorder = subprocess.Popen(
            program, **pipes, env=os.environ | {"LC_ALL": "C"}
        )  # its messages in English
    except FileNotFoundError:
        sys.exit("arecord: there is no such program. Install it: sudo apt install alsa-utils")
    sound, size, messages, playing = b"", 32 * stride_ms, "", True
    with recorder, selectors.DefaultSelector() as ready:
        for stream in (recorder.stderr, recorder.stdout):  # messages nobody reads would stop the recorder
            ready.register(stream, selectors.EVENT_READ)
        try:
            while playing and (events := ready.select(PATIENCE)):
                # a warning comes before the sound that it is about
                for key, _ in sorted(events, key=lambda event: event[0].fileobj is recorder.stdout):
                    data = os.read(key.fd, 2**16)
                    if key.fileobj is recorder.stderr:
                        messages = (messages + data.decode(errors="replace"))[-2_000:]
                        _check_rate(messages)
                        if not data:
                            ready.unregister(recorder.stderr)
                        continue
                    playing, sound = bool(data), sound + data
                    while len(sound) >= size:
                        yield np.frombuffer(sound[:size], "<i2") / np.float32(32_768)
                        sound = sound[size:]
        finally:
            recorder.kill()
    last = " ".join(dict.fromkeys(line.strip() for line in messages.splitlines()[-5:]))
    hint = (
        f" {CONVERTS}" if "non available" in messages else ""
    )  # it has no 16 kHz, not one channel, or not 16 bits
    sys.exit(f"the microphone gives no more sound. {last}{hint}")


def _check_rate(messages: str) -> None:
    """End the program where arecord says that it records at another rate."""
    for line in messages.splitlines():
        if "rate is not accurate" in line:
            sys.exit(f"the microphone has no 16 kHz ({line.strip()}). {CONVERTS}")


def listen(
    predict: Predict,
    names: Sequence[str],
    threshold: float = 0.7,
    chunks: Iterable[np.ndarray] | None = None,
) -> None:
    """Print words as they are detected, with the time since the start."""
    detector = KeywordDetector(names, threshold)
    for ms, second in sliding_windows(microphone() if chunks is None else chunks):
        if word := detector.update(ms, predict(second)):
            print(f"{ms / 1_000:8.1f} s  {word[0]} {word[1]:.2f}", flush=True)


def submit(predict: Predict, names: Sequence[str], folder: Path, target: Path, model: str = "") -> None:
    """Label the wavs of a folder into a csv (fname, label), one at a time; interrupted, the next call goes on.

    What was begun with another `model`, other labels or other clips is begun anew. Files that cannot be read are named, and
    get the first label, silence; one whose name cannot be written as text is named and left out.
    """
    paths = wav_files(folder)
    for path in [path for path in paths if as_text(path.name).encode() != os.fsencode(path.name)]:
        print(f"{as_text(path)}: a name that is no UTF-8, left out. Rename it", file=sys.stderr)
        paths.remove(path)
    if not paths:
        sys.exit(f"{folder}: no wav files there")
    if target.is_dir():
        sys.exit(f"{target}: is a folder. Name a csv file")
    target.parent.mkdir(parents=True, exist_ok=True)
    part, progress = (target.with_name(target.name + end) for end in (".part", "-labels.part"))
    stats = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in map(os.stat, paths)]
    clips = [os.fsencode(path.resolve()) for path in paths]
    key = hashlib.sha1(f"{model} {names} {clips} {stats}".encode()).hexdigest()
    text = progress.read_text(encoding="utf-8", errors="replace") if progress.exists() else ""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    done = [line[:-1] for line in lines[1:]] if lines[:1] == [f"{key}\n"] else []
    with progress.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in [key, *done])
        for number, path in enumerate(paths[len(done) :], len(done) + 1):
            try:
                clip = read_wav(path)
            except ValueError as error:
                label = names[0]
                print(f"{error}: {label}", file=sys.stderr)
            else:
                label = names[int(predict(clip).argmax())]
            done.append(label)
            file.write(f"{label}\n")
            if number % 100 == 0 or number == len(paths):
                file.flush()
                print(f"{number} of {len(paths)}", file=sys.stderr)
    fnames = [as_text(path.name) for path in paths]
    composed = [unicodedata.normalize("NFC", fname) for fname in fnames]  # as tables have them, macOS has not
    fnames = composed if len(set(composed)) == len(fnames) else fnames
    with part.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("fname", "label"))
        rows.writerows(zip(fnames, done))
    part.replace(target)
    progress.unlink()


def peak_memory() -> float:
    """The most memory that this program has had, in MB; NaN elsewhere than on Linux."""
    # getrusage would count what the process was before it became this program
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


def _number(kind: type, low: float, high: float = float("inf")) -> Callable[[str], Any]:
    """For argparse: a number of a kind, from low to high."""

    def parse(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}: from {low:g} to {high:g} is wanted")
        return value

    parse.__name__ = kind.__name__
    return parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Commands bench, label, listen and submit."""
    parser = argparse.ArgumentParser(
        prog="pi.py",
        description="Run a speech-commands model with LiteRT.",
        epilog="example: python pi.py label model.tflite clip.wav",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench", help="time a model on one clip")
    bench.add_argument("--runs", type=_number(int, 1, 1_000_000), default=200)
    bench.add_argument("--json", action="store_true", help="print all times as JSON")
    label = commands.add_parser("label", help="print the three most probable labels of wav files")
    listen_to = commands.add_parser("listen", help="print words as the microphone hears them")
    listen_to.add_argument(
        "--threshold",
        type=_number(float, 0, 1),
        default=0.7,
        help="least probability, averaged over half a second (default: 0.7, as in TensorFlow's tutorial; notebook 5 chooses one)",
    )
    listen_to.add_argument("--device", help="ALSA's name of the microphone, such as plughw:1,0")
    submission = commands.add_parser("submit", help="label the wavs of a folder into a csv")
    for command in (bench, label, listen_to, submission):
        command.add_argument("model", type=Path, help="a .tflite file; labels.txt is expected beside it")
        command.add_argument("--threads", type=_number(int, 1, MOST_THREADS), default=1)
    label.add_argument("wavs", nargs="+", type=Path)
    submission.add_argument("folder", type=Path)
    submission.add_argument("target", type=Path)
    args = parser.parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has every letter
    try:
        _run(args)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on where it was.")


def _run(args: argparse.Namespace) -> None:
    """Do what the command line asks for; ValueError, RuntimeError or OSError, with the file in it, where that fails."""
    names_file = args.model.with_name("labels.txt")
    for file in (args.model, names_file):
        if not file.is_file():
            sys.exit(f"{file}: there is no such file")
    predict = load_litert(args.model, args.threads)
    names = load_labels(names_file, len(predict(np.zeros(SAMPLES, "float32"))))
    if args.command == "bench":
        noise = np.random.default_rng(0).normal(0, 0.1, SAMPLES).astype("float32")
        times = time_runs(lambda: predict(noise), args.runs)
        peak = peak_memory()
        median, p95 = np.percentile(times, [50, 95])
        text = f"{args.model.name}: median {median:.2f} ms, p95 {p95:.2f} ms, std {times.std():.2f} ms, "
        text += f"{args.runs} runs, {args.threads} thread(s), peak memory {peak:.0f} MB"
        print(json.dumps({"ms": times.tolist(), "peak MB": peak}) if args.json else text)
    elif args.command == "label":
        unreadable = 0
        for path in args.wavs:
            try:
                clip = read_wav(path)
            except ValueError as error:
                print(error, file=sys.stderr)
                unreadable += 1
                continue
            probabilities = predict(clip)
            best = np.argsort(probabilities)[::-1][:3]
            print(f"{as_text(path)}: " + ", ".join(f"{names[i]} {probabilities[i]:.2f}" for i in best))
        if unreadable:
            sys.exit(1)
    elif args.command == "listen":
        listen(predict, names, args.threshold, microphone(device=args.device))
    else:
        if not args.folder.is_dir():
            sys.exit(f"{args.folder}: there is no such folder")
        version = hashlib.sha1(args.model.read_bytes()).hexdigest()
        submit(predict, names, args.folder, args.target, version)


if __name__ == "__main__":
    main()
