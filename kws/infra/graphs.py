"""What is in model files: frozen graphs for the TensorFlow of today and of 2017, and the tensors of LiteRT models."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.python.framework import op_def_registry

from kws.audio import CLIP_SAMPLES, SAMPLE_RATE
from kws.infra.backend import keras
from kws.infra.files import CourseError
from kws.infra.tf14 import TF14_OPS
from kws.pi import new_interpreter

CONTEST_TENSORS = "labels_softmax:0", "decoded_sample_data:0", "decoded_sample_data:1"
OLD_NAMES = {"AddV2": "Add", "BatchMatMulV2": "BatchMatMul"}
TOUCHES_FILES = "File", "Save", "Restore", "Reader", "Summary", "PyFunc"


def folded_weights(layer: Any, norm: Any) -> list[np.ndarray]:
    """Weights and bias of a layer, with the batch normalisation after it multiplied in."""
    kernel, *bias = layer.get_weights()
    mean, variance = np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)
    scale = np.asarray(norm.gamma) / np.sqrt(variance + norm.epsilon)
    channels = (len(scale), 1) if "Depthwise" in type(layer).__name__ else (len(scale),)
    return [kernel * scale.reshape(channels), (sum(bias) - mean) * scale + np.asarray(norm.beta)]


def norms_to_fold(network: Any) -> dict[str, Any]:
    """{name of a convolution or dense layer: the batch normalisation that alone uses its output}."""
    norms, kinds = {}, ("Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "Dense")
    for norm in network.layers:
        if isinstance(norm, keras.layers.BatchNormalization):
            before = norm.input._keras_history.operation
            if type(before).__name__ in kinds and len(before._outbound_nodes) == 1:
                norms[before.name] = norm
    return norms


def fold_batch_norm(network: Any) -> Any:
    """A copy of a network; batch normalisations right after a convolution or dense layer have become part of its weights."""
    norms = norms_to_fold(network)
    if not norms:
        return network
    gone = {norm.name for norm in norms.values()}

    def copy(layer):
        config = layer.get_config() | ({"use_bias": True} if layer.name in norms else {})
        return layer.__class__.from_config(config)

    def call(layer, inputs, *args, **options):
        return inputs if layer.name in gone else layer(inputs, *args, **options)

    folded = keras.models.clone_model(network, clone_function=copy, call_function=call)
    for layer in network.layers:
        if layer.name in norms:
            folded.get_layer(layer.name).set_weights(folded_weights(layer, norms[layer.name]))
        elif layer.weights and layer.name not in gone:
            folded.get_layer(layer.name).set_weights(layer.get_weights())
    return folded


def load_graph(path: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """Function of a frozen contest graph: PCM float32 [16,000] -> probabilities [12].

    It uses one thread if TensorFlow has not been used in this process before, or was told to use one.

    Raises CourseError where the file is no graph with the contest's tensors, or would read or write files.
    """
    definition = tf.compat.v1.GraphDef()
    try:
        definition.ParseFromString(Path(path).read_bytes())
        functions = (node for function in definition.library.function for node in function.node_def)
        for node in (*definition.node, *functions):
            if any(word in node.op for word in TOUCHES_FILES):
                raise CourseError(f"{path}: node {node.name} is a {node.op}. Such a graph is not run")
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(definition, name="")
        output, *inputs = (graph.get_tensor_by_name(name) for name in CONTEST_TENSORS)
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        run = tf.compat.v1.Session(graph=graph, config=config).make_callable(output, inputs)
    except CourseError:
        raise
    except (OSError, ValueError, KeyError, DecodeError, tf.errors.OpError) as error:
        raise CourseError(f"{path}: not a frozen graph with the contest's tensors ({error})") from error
    return lambda pcm: run(pcm.reshape(CLIP_SAMPLES, 1), np.int32(SAMPLE_RATE)).reshape(-1)


def for_tf14(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """A copy of a frozen GraphDef in the words of TensorFlow 1.4.

    Raises CourseError, naming the node, where an operation or an attribute has no old equal.
    """
    old = tf.compat.v1.GraphDef()
    old.CopyFrom(graph)
    old.versions.producer, old.versions.min_consumer = 24, 0
    old.ClearField("library")
    for node in old.node:
        defaults = {each.name: each.default_value for each in op_def_registry.get(node.op).attr}
        node.op = OLD_NAMES.get(node.op, node.op)
        if node.op not in TF14_OPS:
            raise CourseError(f"node {node.name}: TensorFlow 1.4 has no operation {node.op}")
        for name in set(node.attr) - set(TF14_OPS[node.op]):
            if not name.startswith("_") and node.attr[name] != defaults.get(name):
                value = str(node.attr[name]).replace("\n", " ").strip()
                raise CourseError(
                    f"node {node.name}: {node.op} of TensorFlow 1.4 has no attribute {name} (here {value})"
                )
            del node.attr[name]
    return old


def without_unused(graph: tf.compat.v1.GraphDef, output: str) -> tf.compat.v1.GraphDef:
    """A copy of a GraphDef with only the nodes that the node `output` depends on."""
    nodes = {node.name: node for node in graph.node}
    needed = [output]
    for name in needed:  # grows
        inputs = (each.split(":")[0].lstrip("^") for each in nodes[name].input)
        needed += [each for each in inputs if each not in needed]
    kept = tf.compat.v1.GraphDef(versions=graph.versions)
    kept.node.extend(node for node in graph.node if node.name in needed)
    return kept


def with_audio_spectrogram(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """A copy of a contest's GraphDef, its power spectrum (frames, Hann, RFFT of 512, square) by the operation AudioSpectrogram.

    The numbers are the same; TensorFlow 1.4 computes them many times faster. A graph without such a spectrum stays as it is.
    """
    new = tf.compat.v1.GraphDef()
    new.CopyFrom(graph)
    nodes = {node.name: node for node in new.node}
    for node in new.node:
        chain = [node]
        while chain[-1].op in ("Square", "ComplexAbs"):
            chain.append(nodes[chain[-1].input[0]])
        if [each.op for each in chain] == ["Square", "ComplexAbs", "RFFT"]:
            if tf.make_ndarray(nodes[chain[-1].input[1]].attr["value"].tensor) == 512:
                name = node.name
                node.Clear()
                node.name, node.op = name, "AudioSpectrogram"
                node.input.append("decoded_sample_data")
                node.attr["window_size"].i, node.attr["stride"].i = 480, 160
                node.attr["magnitude_squared"].b = True
    return without_unused(new, "labels_softmax")


def front_end_tensors(flatbuffer: bytes) -> list[str]:
    """Names of the tensors that the front end of a LiteRT model computes."""
    return [t["name"] for t in new_interpreter(flatbuffer).get_tensor_details() if "front_end" in t["name"]]


def tensor_ranges(flatbuffer: bytes, clips: Iterable[np.ndarray]) -> pd.DataFrame:
    """Largest absolute value, and median of those that are not zero, of each float tensor of a LiteRT model, over clips.

    DataFrame, in the order of the file; `front end` says where the tensor belongs, `constant` that it is a weight.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this takes memory
        interpreter = new_interpreter(flatbuffer, keep_tensors=True)
    (input_,) = interpreter.get_input_details()
    seen = {}
    for clip in clips:
        interpreter.set_tensor(input_["index"], clip[None])
        interpreter.invoke()
        for each in interpreter.get_tensor_details():
            try:
                values = np.abs(interpreter.get_tensor(each["index"]))
            except ValueError:  # a tensor without values of its own
                continue
            if values.dtype == np.float32 and values.size > 1 and values.any():
                seen.setdefault(each["name"], []).append((values.max(), np.median(values[values > 0])))
    rows = {name: np.array(pairs) for name, pairs in seen.items()}
    table = pd.DataFrame({"tensor": [*rows], "largest": [v[:, 0].max() for v in rows.values()]})
    table["typical"] = [np.median(v[:, 1]) for v in rows.values()]
    table["constant"] = [not np.ptp(v, axis=0).any() for v in rows.values()]
    return table.assign(**{"front end": table.tensor.str.contains("front_end")})
