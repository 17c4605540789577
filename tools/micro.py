"""A model for a microcontroller: python tools/micro.py WORK [--model NAME.keras] [--into FOLDER]

Writes the network of a work folder, int8 throughout, as a .tflite and as an array of C, with the constants of the front end,
a front end in C to copy from, test vectors, and a README. The kernels of TensorFlow Lite Micro run it here
(pip install -r req-micro.txt) on up to 200 clips of voices that the network never heard; the README says what came out.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

from kws import micro
from kws.audio import CLIP_SAMPLES, read_clips, to_float
from kws.infra.experiments import circumstances
from kws.infra.files import CourseError, read_json, write_atomically
from kws.infra.synthetic import load_espeak, make_voices, utter
from kws.pi import load_litert, new_interpreter
from kws.preprocess import FLOOR, HOP, WINDOW, log_mel, mel_matrix
from kws.split import labels_of, read_manifest

HERE = Path(__file__).parent
CLIPS = 200
README = """# {name} for a microcontroller

| file | what it is |
|---|---|
| model.tflite, model.h | the network: int8 [{shape}] in, int8 [1, {labels}] out; {bytes:,} bytes |
| front_end.h | the constants of the front end |
| front_end.c | the front end in plain C, slow and short; `cc -DKWS_CHECK front_end.c -lm -o check && ./check` |
| test_vectors.h | {frames} frames of sound with what must come out, and a whole input of the network with its output |
| labels.txt | the labels, in the order of the outputs |

## What the chip needs
- flash: {bytes:,} bytes for the network, {constants:,} bytes for the constants of the front end, and the kernels
- memory: an arena of {arena:,} bytes (the least with which TensorFlow Lite Micro runs it on a computer, whose pointers have 8
  bytes; measure it again on the chip, where they have 4), {feature:,} bytes for the last second's features, {window} samples
- operations to register: {operators}

## What it must compute
One second is {frames_of_second} frames: one each {hop} samples (10 ms), of {window} samples (30 ms), at 16 kHz. For each frame:
1. samples of 16 bits / 32768, times `kws_window` (Hann), {padding} zeros after them;
2. Fourier transform of 512, the power (real squared + imaginary squared) at 0 to 8,000 Hz: {powers} numbers;
3. {bands} filters: `kws_mel_weights` holds, one filter after the other, `kws_mel_count` weights, from frequency
   `kws_mel_start` on;
4. natural logarithm of the sum + {floor:g};
5. minus `kws_mean`, divided by `kws_std`, divided by `KWS_INPUT_SCALE`, rounded, plus `KWS_INPUT_ZERO`, cut to -128 .. 127.

The rows of the last {frames_of_second} frames, oldest first, are the input. Each frame brings one row: move the others up.
A probability is (output + {minus_zero}) * {out_scale:g}. Average the probabilities of half a second; a word is heard where the
average reaches 0.7, and for a second and a half after it none is (KeywordDetector in kws/pi.py).

## Measured
{n} clips of {speakers} voices that the network never heard, the same clips in each row ({hardware}):

| | label equal to Keras | right |
|---|---|---|
{table}

Largest difference between TensorFlow Lite Micro and LiteRT on the same file: {difference:g}.
A model with its front end inside does not run on TensorFlow Lite Micro. It says: {missing}.
Which networks of the course run there and which do not: benchmarks/results/micro.csv (untrained, their sizes and arenas).
"""


def read_work(work, model):
    """(path of the .keras, manifest, labels) of a work folder."""
    path = work / (model or f"{read_json(work / 'results.json').get('training', {}).get('model', '')}.keras")
    if not path.is_file():
        raise CourseError(f"{path}: there is no such model. Name one with --model, or run notebook 4")
    manifest = read_manifest(work)
    return path, manifest, labels_of(manifest)


def sound_frames(words):
    """Frames for the test vectors, int16 [4, 480], from noise, a tone of 1 kHz and a word spoken by a machine; and the word."""
    rng = np.random.default_rng(0)
    tone = 0.5 * np.sin(2 * np.pi * 1_000 / 16_000 * np.arange(WINDOW))
    word = utter(load_espeak(), make_voices(1)[0], words[0], rng)
    loudest = int(np.argmax(np.convolve(word**2, np.ones(WINDOW), "valid")))
    frames = [
        rng.normal(0, 1e-3, WINDOW),
        tone,
        word[loudest:][:WINDOW],
        word[max(loudest - 2_000, 0) :][:WINDOW],
    ]
    return np.stack([np.round(frame * 32_767) for frame in frames]).astype("int16"), word


def vectors_header(front_end, flatbuffer, words):
    """test_vectors.h, and how many frames are in it."""
    interpreter = micro.load_micro(flatbuffer)
    (scale, zero), _ = micro.scales(interpreter)
    frames, word = sound_frames(words)
    sound = np.zeros((len(frames), CLIP_SAMPLES), "float32")
    sound[:, :WINDOW] = to_float(frames)
    mel = log_mel(sound).numpy()[:, 0]
    inputs = micro.quantise(front_end.predict(sound, verbose=0)[:, 0], scale, zero)
    clip = np.pad(word, (0, CLIP_SAMPLES - len(word)))[None].astype("float32")
    whole = micro.quantise(front_end.predict(clip, verbose=0), scale, zero)
    interpreter.set_input(whole, 0)
    interpreter.invoke()
    return (
        "// What must come out of the front end and of the network: made from a tone, noise and machine speech\n#pragma once\n"
        f'#include "front_end.h"\n#define KWS_TEST_FRAMES {len(frames)}\n'
        + micro.c_array("kws_test_pcm", frames, "int16_t")
        + micro.c_array("kws_test_log_mel", mel, "float", 8)
        + micro.c_array("kws_test_input", inputs, "int8_t", 20)
        + micro.c_array("kws_test_network_input", whole, "int8_t", 20)
        + micro.c_array("kws_test_network_output", interpreter.get_output(0), "int8_t")
    ), len(frames)


def run_litert(flatbuffer, features, scales):
    """Probabilities of an int8 network in LiteRT, whose kernels are others."""
    interpreter = new_interpreter(flatbuffer)
    given, gives = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(feature):
        interpreter.set_tensor(given, feature)
        interpreter.invoke()
        return interpreter.get_tensor(gives)

    return micro.predict_int8(run, features, scales)


def write(work, model="", into=None, clips=CLIPS):
    """Write the folder for a microcontroller; returns it and the figures of its README."""
    work = Path(work)
    path, manifest, labels = read_work(work, model)
    front_end, network = micro.split_model(path)
    spoken = manifest[manifest.speaker != ""]
    some = {
        split: rows.sample(min(len(rows), clips), random_state=0)
        for split, rows in spoken.groupby("split")
        if split in ("train", "test")
    }
    if "test" not in some:
        raise CourseError(f"{work}: no voices were kept for the test")
    flatbuffer = micro.to_micro(network, front_end.predict(read_clips(some["train"]), verbose=0))
    if missing := micro.missing_operators(flatbuffer):
        raise CourseError(f"{path}: TensorFlow Lite Micro cannot run its network. It says: {missing}")
    heard = read_clips(some["test"])
    features = front_end.predict(heard, verbose=0)
    interpreter = micro.load_micro(flatbuffer)
    probabilities = {
        "Keras, floating point": network.predict(features, verbose=0),
        "LiteRT, the network in int8": run_litert(flatbuffer, features, micro.scales(interpreter)),
        "TensorFlow Lite Micro, the same file": micro.predict_micro(flatbuffer, features),
    }
    for name in ("model.tflite", "model_int8.tflite"):
        if (work / name).exists():
            predict = load_litert(work / name)
            probabilities[f"LiteRT, {name}, front end inside"] = np.stack([predict(clip) for clip in heard])
    truth = some["test"].label.cat.codes.to_numpy()
    keras, lite, tiny = list(probabilities.values())[:3]
    equal = {name: int((p.argmax(1) == keras.argmax(1)).sum()) for name, p in probabilities.items()}
    right = {name: int((p.argmax(1) == truth).sum()) for name, p in probabilities.items()}
    (scale, zero), (out_scale, out_zero) = micro.scales(interpreter)
    into = Path(into or work / "micro")
    into.mkdir(parents=True, exist_ok=True)
    vectors, frames = vectors_header(front_end, flatbuffer, labels[2:])
    header = micro.front_end_header(front_end, scale, zero)
    array = micro.c_array("kws_model", flatbuffer, "unsigned char", 20)
    files = {
        "model.tflite": flatbuffer,
        "model.h": "// The network, for tflite::GetModel\n#pragma once\n"
        + array.replace("const ", "alignas(16) const ", 1)
        + f"const unsigned int kws_model_bytes = {len(flatbuffer)};\n",
        "front_end.h": header,
        "test_vectors.h": vectors,
        "labels.txt": "".join(f"{label}\n" for label in labels),
    }
    whole = next(
        (work / name for name in ("model_int8.tflite", "model.tflite") if (work / name).exists()), None
    )
    figures = {
        "bytes": len(flatbuffer),
        "arena": micro.least_arena(flatbuffer),
        "n": len(truth),
        "speakers": some["test"].speaker.nunique(),
        "difference": float(np.abs(lite - tiny).max()),
        "missing": micro.missing_operators(whole.read_bytes()) if whole else "not tried",
        "equal": equal,
        "right": right,
    }
    time, bands = front_end.output_shape[1:]
    text = README.format(
        name=path.stem,
        shape=f"1, {time}, {bands}",
        labels=len(labels),
        frames=frames,
        constants=4 * (WINDOW + np.count_nonzero(mel_matrix()) + 2 * bands) + 4 * bands,
        feature=time * bands,
        window=WINDOW,
        hop=HOP,
        padding=512 - WINDOW,
        powers=257,
        bands=bands,
        frames_of_second=time,
        floor=FLOOR,
        minus_zero=-out_zero,
        out_scale=out_scale,
        operators=", ".join(micro.operators(flatbuffer)),
        hardware=circumstances()["hardware"],
        table="\n".join(
            f"| {name} | {equal[name]} of {len(truth)} | {right[name]} of {len(truth)} |" for name in equal
        ),
        **{key: figures[key] for key in ("bytes", "arena", "n", "speakers", "difference", "missing")},
    )
    for name, content in (files | {"README.md": text}).items():
        write_atomically(into / name, content if isinstance(content, bytes) else content.encode())
    shutil.copyfile(HERE / "micro_front_end.c", into / "front_end.c")
    return into, figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="such as data/synthetic, after notebook 4")
    parser.add_argument("--model", default="", help="a .keras file there (default: that of results.json)")
    parser.add_argument("--into", type=Path, help="default: WORK/micro")
    args = parser.parse_args()
    try:
        folder, figures = write(args.work, args.model, args.into)
    except CourseError as error:
        sys.exit(str(error))
    print(
        f"{folder}: {figures['bytes']:,} bytes, arena {figures['arena']:,} bytes, "
        f"{figures['equal']['TensorFlow Lite Micro, the same file']} of {figures['n']} labels as in Keras"
    )
