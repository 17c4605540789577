"""The network without its front end, for a microcontroller: int8 throughout, run here by the kernels of TensorFlow Lite Micro."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from kws.deploy import fold_batch_norm
from kws.inference import load_clip_model
from kws.infra.backend import keras
from kws.infra.files import CourseError, quiet_stderr, stderr_to
from kws.preprocess import FFT_SIZE, FLOOR, HOP, WINDOW, mel_matrix

ALIGNMENT = 16  # bytes: an arena's size is a multiple of it


def split_model(path: str | Path) -> tuple[keras.Model, keras.Model]:
    """Front end (PCM [n, 16,000] -> feature) and network (feature -> probabilities) of a .keras file that `train` saved."""
    model = load_clip_model(path)
    if len(model.layers) != 4 or model.layers[1].name != "front_end":
        raise CourseError(f"{path}: has no front end of its own. Take a model that kws train wrote")
    pcm, front_end, network, softmax = model.layers
    feature = keras.Input(network.input_shape[1:])
    folded = fold_batch_norm(network)
    return keras.Model(model.input, front_end(model.input)), keras.Model(feature, softmax(folded(feature)))


def to_micro(network: keras.Model, features: np.ndarray) -> bytes:
    """A network as a LiteRT flatbuffer whose weights, activations, input and output are int8.

    `features` [n, ...] are what the front end makes of some clips: their ranges decide the scales. CourseError for a recurrent
    network: TensorFlow's converter makes no int8 of its loop, and ends the process.
    """
    if loops := [layer.name for layer in network._flatten_layers() if isinstance(layer, keras.layers.RNN)]:
        raise CourseError(
            f"{loops[0]} is a recurrent layer, which cannot be converted to int8. Take another network"
        )
    shape = [1, *network.input_shape[1:]]
    run = tf.function(lambda feature: network(feature, training=False))
    frozen = convert_variables_to_constants_v2(
        run.get_concrete_function(tf.TensorSpec(shape, tf.float32, name="feature"))
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], tf.Module())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([feature[None]] for feature in np.float32(features))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with quiet_stderr():
        return converter.convert()


def _library() -> Any:
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError as error:
        raise CourseError("tflite-micro is missing: pip install -r req-micro.txt") from error
    return runtime


def load_micro(flatbuffer: bytes, arena: int = 0) -> Any:
    """Interpreter of TensorFlow Lite Micro. CourseError, with its words, where it cannot run a model in an arena (bytes)."""
    runtime = _library()
    with tempfile.TemporaryFile() as said, stderr_to(said):
        try:
            return runtime.Interpreter.from_bytes(flatbuffer, arena_size=arena or 2**22)
        except RuntimeError as error:
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
            reason = next((line for line in lines if line.strip()), str(error))
            raise CourseError(f"TensorFlow Lite Micro cannot run this model: {reason.strip()}") from error


def predict_micro(flatbuffer: bytes, features: np.ndarray) -> np.ndarray:
    """Probabilities [n, labels] that the microcontroller's kernels give for features [n, ...] of the front end."""
    interpreter = load_micro(flatbuffer)

    def run(feature):
        interpreter.set_input(feature, 0)
        interpreter.invoke()
        return interpreter.get_output(0)

    return predict_int8(run, features, scales(interpreter))


def predict_int8(
    run: Callable[[np.ndarray], np.ndarray],
    features: np.ndarray,
    scales: tuple[tuple[float, int], tuple[float, int]],
) -> np.ndarray:
    """Probabilities [n, labels] for features [n, ...] by a function of int8 [1, ...] that gives int8 [1, labels]."""
    (scale, zero), (out_scale, out_zero) = scales
    rows = [run(feature[None])[0].astype("float32") for feature in quantise(features, scale, zero)]
    return ((np.stack(rows) - out_zero) * out_scale).astype("float32")


def scales(interpreter: Any) -> tuple[tuple[float, int], tuple[float, int]]:
    """(scale, zero point) of the input and of the output: real = scale * (int8 - zero point)."""
    pairs = []
    for details in (interpreter.get_input_details(0), interpreter.get_output_details(0)):
        parameters = details["quantization_parameters"]
        pairs.append((float(parameters["scales"][0]), int(parameters["zero_points"][0])))
    return pairs[0], pairs[1]


def quantise(values: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """Real values as int8, those out of range cut.

    >>> quantise(np.array([-100.0, 0.0, 0.5]), 0.25, 3)
    array([-128,    3,    5], dtype=int8)
    """
    return np.clip(np.round(np.asarray(values) / scale) + zero, -128, 127).astype("int8")


def least_arena(flatbuffer: bytes) -> int:
    """The least bytes of working memory with which TensorFlow Lite Micro takes the model on this machine.

    On a microcontroller it is another number, for its pointers have 4 bytes and not 8: measure it there, too.
    """
    low, high = 0, 2**22
    load_micro(flatbuffer, high)
    while high - low > ALIGNMENT:
        middle = (low + high) // 2 // ALIGNMENT * ALIGNMENT
        try:
            load_micro(flatbuffer, middle)
            high = middle
        except CourseError:
            low = middle
    return high


def operators(flatbuffer: bytes) -> list[str]:
    """Names of the operations of a LiteRT model, each once."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        tf.lite.experimental.Analyzer.analyze(model_content=flatbuffer)
    return sorted(set(re.findall(r"Op#\d+ ([A-Z_0-9]+)\(", text.getvalue())))


TRY = """import sys
from tflite_micro.python.tflite_micro import runtime
runtime.Interpreter.from_file(sys.argv[1], arena_size=2**22)"""


def missing_operators(flatbuffer: bytes) -> str:
    """What TensorFlow Lite Micro says that it cannot run in a model; empty where it runs it.

    It is tried in a process of its own, since some models end the process without a word.
    """
    _library()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(flatbuffer)
        done = subprocess.run([sys.executable, "-c", TRY, path], capture_output=True, text=True)
    if done.returncode < 0:
        return "nothing; the process ends while the model is set up"
    return next((line.strip() for line in done.stderr.splitlines() if line.strip()), "")


def c_array(name: str, values: np.ndarray | bytes, kind: str, per_line: int = 12) -> str:
    """Numbers as an array of C."""
    values = np.frombuffer(values, "uint8") if isinstance(values, bytes) else np.ravel(values)
    form = "{:.9g}f" if kind == "float" else "{}"
    texts = [form.format(float(v) if kind == "float" else int(v)) for v in values]
    texts = [t.replace("f", ".0f") if kind == "float" and not set(".en") & set(t[:-1]) else t for t in texts]
    lines = [", ".join(texts[at : at + per_line]) for at in range(0, len(texts), per_line)]
    return f"const {kind} {name}[{len(texts)}] = {{\n  " + ",\n  ".join(lines) + "};\n"


def front_end_header(front_end: keras.Model, scale: float, zero: int) -> str:
    """The constants of the front end as a header of C: window, filters, normalisation, scale."""
    layer = front_end.layers[-1]
    if layer.feature != "log_mel":
        raise CourseError(f"the front end is {layer.feature}: this header is for log_mel")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    bank = mel_matrix()
    starts = [int(np.flatnonzero(column)[0]) for column in bank.T]
    counts = [int(np.count_nonzero(column)) for column in bank.T]
    weights = np.concatenate([column[at : at + n] for column, at, n in zip(bank.T, starts, counts)])
    numbers = {"WINDOW": WINDOW, "HOP": HOP, "FFT_SIZE": FFT_SIZE, "BANDS": bank.shape[1]}
    frames = front_end.output_shape[1]
    return (
        "// Constants of the log-mel front end: what they are for stands in README.md\n#pragma once\n#include <stdint.h>\n"
        + "".join(f"#define KWS_{name} {value}\n" for name, value in numbers.items())
        + f"#define KWS_FRAMES {frames}\n#define KWS_FLOOR {FLOOR:g}f\n"
        + f"#define KWS_INPUT_SCALE {scale:.9g}f\n#define KWS_INPUT_ZERO ({zero})\n"
        + c_array("kws_window", hann, "float", 8)
        + c_array("kws_mel_start", np.array(starts), "int16_t")
        + c_array("kws_mel_count", np.array(counts), "int16_t")
        + c_array("kws_mel_weights", weights, "float", 8)
        + c_array("kws_mean", np.ravel(layer.mean), "float", 8)
        + c_array("kws_std", np.ravel(layer.std), "float", 8)
    )
