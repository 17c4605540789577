"""The models beside the ten of notebook 3, and all of them under their names, each with the feature it reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from kws.audio import CLIP_SAMPLES
from kws.infra.backend import keras
from kws.models import (
    FEATURE_SHAPE,
    MOMENTUM,
    SubSpectralNorm,
    bc_resnet,
    cnn_1d,
    cnn_2d,
    dnn,
    ds_cnn,
    gru,
    linear,
    macs,
    matchboxnet,
    norm_relu,
    see_dscnn,
    see_stages,
    tc_resnet,
)
from kws.preprocess import DELTA, FFT_BANDS, FRAMES, TEMPO_LAGS

layers = keras.layers


def mlp(classes: int = 12, shape: tuple[int, ...] = FEATURE_SHAPE) -> keras.Model:
    """Multi-layer perceptron with one hidden layer of 128 units."""
    hidden = layers.Dense(128, activation="relu")
    return keras.Sequential([keras.Input(shape), layers.Flatten(), hidden, layers.Dense(classes)], name="mlp")


def cnn_1d_pcm(classes: int = 12, widths: tuple[int, ...] = (32, 32, 64, 128)) -> keras.Model:
    """After M5 (arXiv:1610.00087) on PCM [16,000, 1], at a quarter of its width, with 16,000 samples a second for its 8,000."""
    pcm = keras.Input((CLIP_SAMPLES, 1))
    x = norm_relu(layers.Conv1D(widths[0], 80, strides=4, padding="same", use_bias=False)(pcm))
    for width in widths[1:]:
        x = layers.MaxPooling1D(4)(x)
        x = norm_relu(layers.Conv1D(width, 3, padding="same", use_bias=False)(x))
    x = layers.GlobalAveragePooling1D()(layers.MaxPooling1D(4)(x))
    return keras.Model(pcm, layers.Dense(classes)(x), name="cnn_1d_pcm")


def conv(classes: int = 12) -> keras.Model:
    """cnn-trad-fpool3 of TensorFlow's audio tutorial. Source: Sainath and Parada, Interspeech 2015."""
    mfcc = keras.Input(FEATURE_SHAPE)
    x = layers.Reshape((*FEATURE_SHAPE, 1))(mfcc)
    x = layers.Dropout(0.5)(layers.Conv2D(64, (20, 8), padding="same", activation="relu")(x))
    x = layers.MaxPooling2D(2, padding="same")(x)
    x = layers.Dropout(0.5)(layers.Conv2D(64, (10, 4), padding="same", activation="relu")(x))
    return keras.Model(mfcc, layers.Dense(classes)(layers.Flatten()(x)), name="conv")


def low_latency_conv(classes: int = 12) -> keras.Model:
    """cnn-one-fstride4 as TensorFlow's audio tutorial builds it. Source: Sainath and Parada, Interspeech 2015."""
    mfcc = keras.Input(FEATURE_SHAPE)
    x = layers.Reshape((*FEATURE_SHAPE, 1))(mfcc)
    x = layers.Dropout(0.5)(layers.Conv2D(186, (FRAMES, 8), activation="relu")(x))
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dropout(0.5)(layers.Dense(128)(x))
    return keras.Model(mfcc, layers.Dense(classes)(x), name="low_latency_conv")


def rnn(classes: int = 12, units: int = 64) -> keras.Model:
    """A plain recurrent layer on pairs of frames; what it says after each is averaged."""
    mel = keras.Input(FEATURE_SHAPE)
    pairs = layers.Reshape((FRAMES // 2, 2 * FEATURE_SHAPE[1]))(mel)
    x = layers.GlobalAveragePooling1D()(layers.SimpleRNN(units, return_sequences=True)(pairs))
    return keras.Model(mel, layers.Dense(classes)(layers.Dropout(0.2)(x)), name="rnn")


def lstm(classes: int = 12, units: int = 64) -> keras.Model:
    """A bidirectional LSTM on pairs of frames, with attention over time."""
    mel = keras.Input(FEATURE_SHAPE)
    pairs = layers.Reshape((FRAMES // 2, 2 * FEATURE_SHAPE[1]))(mel)
    x = layers.Bidirectional(layers.LSTM(units, return_sequences=True))(pairs)
    weights = layers.Softmax(axis=1)(layers.Dense(1)(layers.Dense(units, activation="tanh")(x)))
    x = layers.Flatten()(layers.Dot(axes=1)([weights, x]))
    return keras.Model(mel, layers.Dense(classes)(layers.Dropout(0.2)(x)), name="lstm")


def light_cnn(classes: int = 12) -> keras.Model:
    """After the light CNN of a Kaggle kernel: small convolutions on the spectrogram [98, 257] up to 4 kHz.

    The kernel reads 99 x 81 numbers of sound at 8 kHz, normalises after ReLU, and has no dropout on its dense layers.
    """
    spectrogram = keras.Input((FRAMES, 257))
    x = layers.BatchNormalization(momentum=MOMENTUM)(
        layers.Reshape((FRAMES, 129, 1))(spectrogram[:, :, :129])
    )
    for width, length, count in ((8, 2, 2), (16, 3, 2), (32, 3, 1)):
        for _ in range(count):
            x = layers.Conv2D(width, length, activation="relu")(x)
        x = layers.Dropout(0.2)(layers.MaxPooling2D(2)(x))
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dropout(0.2)(norm_relu(layers.Dense(128, use_bias=False)(x)))
    return keras.Model(spectrogram, layers.Dense(classes)(x), name="light_cnn")


def inception_1d(x: keras.KerasTensor, depth: int) -> keras.KerasTensor:
    """Eight branches side by side: convolutions of four lengths, four poolings."""

    def convolve(x, width, length=1):
        return norm_relu(layers.Conv1D(width, length, padding="same")(x))

    x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    branches = [convolve(x, 16 * depth)]
    branches += [convolve(convolve(x, 16), 32 * depth, length) for length in (3, 5, 7)]
    for pool in (layers.MaxPooling1D, layers.AveragePooling1D):
        branches += [layers.Conv1D(16, 1)(pool(length, 1, padding="same")(x)) for length in (3, 5)]
    return layers.Concatenate()(branches)


def wavception(classes: int = 12) -> keras.Model:
    """After WavCeption V1 of a Kaggle kernel: 18 one-dimensional Inception modules on PCM [16,000, 1].

    Two things differ: the branch of length 7 has filters of 7 samples (the kernel's, though called 7, of 5), and pooled
    branches are not normalised.
    """
    x = pcm = keras.Input((CLIP_SAMPLES, 1))
    for depth in (1, 1, 2, 2, 3, 3, 4, 4, 4):
        x = layers.MaxPooling1D(2)(inception_1d(inception_1d(x, depth), depth))
    x = layers.BatchNormalization(momentum=MOMENTUM)(layers.Flatten()(x))
    x = layers.BatchNormalization(momentum=MOMENTUM)(layers.Dense(128, activation="relu")(x))
    return keras.Model(pcm, layers.Dense(classes)(x), name="wavception")


@keras.saving.register_keras_serializable("kws")
class GroupMax(layers.Layer):
    """Logits of words [n, words] -> logits of labels [n, labels]: the largest of the words that `groups[word]` points to.

    A label to which no word points gets the smallest logit of all, so that it is never the answer.
    """

    def __init__(self, groups, labels=None, **kwargs):
        super().__init__(**kwargs)
        self.groups = list(groups)
        self.labels = labels or max(self.groups) + 1

    def call(self, logits):
        least = keras.ops.min(logits, axis=1, keepdims=True)
        best = []
        for label in range(self.labels):
            words = [word for word, group in enumerate(self.groups) if group == label]
            own = keras.ops.take(logits, words, axis=1) if words else least
            best.append(keras.ops.max(own, axis=1, keepdims=True))
        return keras.ops.concatenate(best, axis=1)

    def get_config(self):
        return super().get_config() | {"groups": self.groups, "labels": self.labels}


def shorten_norm_memory(network: keras.Model) -> None:
    """Give the batch normalisations of a network of Keras's the momentum of the other models, for a short training."""
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.95


def mobilenet(classes: int = 12) -> keras.Model:
    """MobileNet v1 (arXiv:1704.04861) on the log-mel spectrogram as a picture of one channel, untrained."""
    mel = keras.Input(FEATURE_SHAPE)
    network = keras.applications.MobileNet(
        (*FEATURE_SHAPE, 1), weights=None, classes=classes, classifier_activation=None, dropout=0.2
    )
    shorten_norm_memory(network)
    return keras.Model(mel, network(layers.Reshape((*FEATURE_SHAPE, 1))(mel)), name="mobilenet")


@keras.saving.register_keras_serializable("kws")
class ClassToken(layers.Layer):
    """Put a learned token before the frames and add learned positions: [n, frames, width] -> [n, frames + 1, width]."""

    def build(self, shape):
        small = keras.initializers.TruncatedNormal(stddev=0.02)
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer=small, name="token")
        self.position = self.add_weight(
            shape=(1, shape[1] + 1, shape[-1]), initializer=small, name="position"
        )

    def call(self, x):
        token = keras.ops.repeat(self.token, keras.ops.shape(x)[0], axis=0)
        return keras.ops.concatenate([token, x], axis=1) + self.position


@keras.saving.register_keras_serializable("kws")
class Bias(layers.Layer):
    """Add a learned vector: [..., width]. Keras's attention has a bias in all of its four products or in none."""

    def build(self, shape):
        self.bias = self.add_weight(shape=(shape[-1],), initializer="zeros", name="bias")

    def call(self, x):
        return x + self.bias


def kwt(classes: int = 12, width: int = 64, heads: int = 1, depth: int = 12) -> keras.Model:
    """Keyword transformer KWT-1 (arXiv:2104.00769): frames as tokens, normalisation after each layer.

    The published network reads 40 MFCCs; here it gets the course's 40 log-mel bins.
    """
    mel = keras.Input(FEATURE_SHAPE)
    x = ClassToken()(layers.Dense(width)(mel))
    for _ in range(depth):
        attended = Bias()(layers.MultiHeadAttention(heads, width // heads, use_bias=False)(x, x))
        x = layers.LayerNormalization(epsilon=1e-6)(x + attended)
        wide = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(x))
        x = layers.LayerNormalization(epsilon=1e-6)(x + wide)
    return keras.Model(mel, layers.Dense(classes)(x[:, 0]), name="kwt1")


def winner_106(classes: int = 32) -> keras.Model:
    """Experiment 106 of the contest's winners on PCM [16,000, 1]: a class for each word, attention, one average.

    Source: github.com/see--/speech_recognition, commit 6892d80.
    """
    pcm = keras.Input((CLIP_SAMPLES, 1))
    x = see_stages(pcm, (64, 128, 192, 256, 320, 384, 448))
    weights = layers.Dense(x.shape[1], activation="softmax", use_bias=False)(layers.Flatten()(x))
    weighed = layers.Multiply()([x, layers.Reshape((-1, 1))(weights)])
    x = layers.Dropout(0.4)(layers.GlobalAveragePooling1D()(weighed))
    return keras.Model(pcm, layers.Dense(classes, use_bias=False)(x), name="winner_106")


class ZooModel(NamedTuple):
    """A model of the zoo: the feature it reads (a key of FEATURES) and a function (classes) -> Keras network.

    With `words` the network is trained on words, and folded to labels afterwards.
    """

    feature: str
    build: Callable[..., keras.Model]
    words: bool = False


ZOO = {
    "linear": ZooModel("log_mel", linear),
    "mlp": ZooModel("log_mel", mlp),
    "dnn": ZooModel("log_mel", dnn),
    "cnn_1d": ZooModel("log_mel", cnn_1d),
    "cnn_1d_mfcc": ZooModel("mfcc", cnn_1d),
    "cnn_1d_delta": ZooModel(
        "mfcc_delta", lambda classes=12: cnn_1d(classes, (FRAMES, 3 * DELTA["coefficients"]))
    ),
    "cnn_1d_fft": ZooModel("fft", lambda classes=12: cnn_1d(classes, (FFT_BANDS,))),
    "cnn_1d_pcm": ZooModel("pcm", cnn_1d_pcm),
    "cnn_2d_mfcc": ZooModel("mfcc", cnn_2d),
    "cnn_2d": ZooModel("log_mel", cnn_2d),
    "cnn_2d_tempogram": ZooModel("tempogram", lambda classes=12: cnn_2d(classes, (FRAMES, TEMPO_LAGS))),
    "rnn": ZooModel("log_mel", rnn),
    "gru": ZooModel("log_mel", gru),
    "lstm": ZooModel("log_mel", lstm),
    "low_latency_conv": ZooModel("mfcc", low_latency_conv),
    "light_cnn": ZooModel("spectrogram", light_cnn),
    "ds_cnn_s": ZooModel("mfcc", lambda classes=12: ds_cnn(64, 4, (2, 1), classes)),
    "ds_cnn_m": ZooModel("mfcc", lambda classes=12: ds_cnn(172, 4, ((2, 1), 2), classes)),
    "tc_resnet8": ZooModel("log_mel", lambda classes=12: tc_resnet((24, 32, 48), 16, classes)),
    "tc_resnet14": ZooModel("log_mel", lambda classes=12: tc_resnet((36, 36, 48, 48, 72, 72), 24, classes)),
    "tc_resnet14_wide": ZooModel(
        "log_mel", lambda classes=12: tc_resnet((54, 54, 72, 72, 108, 108), 36, classes)
    ),
    "matchboxnet": ZooModel("log_mel", matchboxnet),
    "bc_resnet1": ZooModel("log_mel", lambda classes=12: bc_resnet(1, classes)),
    "bc_resnet2": ZooModel("log_mel", lambda classes=12: bc_resnet(2, classes)),
    "bc_resnet3": ZooModel("log_mel", lambda classes=12: bc_resnet(3, classes)),
    "conv": ZooModel("mfcc", conv),
    "ds_cnn_l": ZooModel("mfcc", lambda classes=12: ds_cnn(276, 5, ((2, 1), 2), classes)),
    "kwt1": ZooModel("log_mel", kwt),
    "mobilenet": ZooModel("log_mel", mobilenet),
    "winner_195": ZooModel("pcm", see_dscnn),
    "winner_106": ZooModel("pcm", winner_106, words=True),
    "wavception": ZooModel("pcm", wavception),
}
FAMILIES = {
    "no idea of sound": ("linear", "mlp", "dnn", "forest"),
    "slides along time": (
        "cnn_1d",
        "cnn_1d_mfcc",
        "cnn_1d_delta",
        "cnn_1d_fft",
        "tc_resnet8",
        "tc_resnet14",
        "tc_resnet14_wide",
        "matchboxnet",
    ),
    "sees a picture": (
        "cnn_2d",
        "cnn_2d_mfcc",
        "cnn_2d_tempogram",
        "light_cnn",
        "conv",
        "low_latency_conv",
        "mobilenet",
        "ds_cnn_s",
        "ds_cnn_m",
        "ds_cnn_l",
    ),
    "both": ("bc_resnet1", "bc_resnet2", "bc_resnet3"),
    "memory, attention": ("rnn", "gru", "lstm", "kwt1"),
    "reads PCM": ("cnn_1d_pcm", "winner_195", "winner_106", "wavception"),
}
# Notebook 5 makes a graph for TensorFlow 1.4 of the others. That has no equal for recurrent layers, the transformer's Einsum,
# or the product that makes deltas; MobileNet and WavCeption are larger than 5 MB; LiteRT has not every Fourier transform.
NOT_FREEZABLE = (
    "cnn_1d_delta",
    "cnn_1d_fft",
    "cnn_2d_tempogram",
    "rnn",
    "gru",
    "lstm",
    "kwt1",
    "mobilenet",
    "wavception",
)
FREEZABLE = tuple(name for name in ZOO if name not in NOT_FREEZABLE)


class Published(NamedTuple):
    """What was printed of a network: parameters and multiplications, as they stand there, and how its authors counted."""

    parameters: str
    multiplications: str = ""
    counted: str = (
        "all"  # parameters: all, trained, or without one of the four numbers of a normalised channel
    )
    norm: int = 0  # multiplications of a normalised value
    build: Callable[[], keras.Model] | None = (
        None  # with the input and the classes of its authors, where they differ
    )


PUBLISHED = {
    "conv": Published("926,860", "201 M"),
    "ds_cnn_s": Published("24 k", "2.7 M", "three of four"),
    "ds_cnn_m": Published("138 k", "9.8 M", "three of four"),
    "ds_cnn_l": Published("417 k", "28 M", "three of four"),
    "tc_resnet8": Published("66 k", "1.5 M"),
    "tc_resnet14": Published("305 k", "6.7 M"),
    "matchboxnet": Published("77 k", "9.3 M", "trained", 1, lambda: matchboxnet(30, (128, 64))),
    "bc_resnet1": Published("9.2 k", "3.1 M", "trained", 2, lambda: bc_resnet(1, shape=(101, 40))),
    "bc_resnet2": Published("27.3 k", "8.5 M", "trained", 2, lambda: bc_resnet(2, shape=(101, 40))),
    "bc_resnet3": Published("54.2 k", "16.2 M", "trained", 2, lambda: bc_resnet(3, shape=(101, 40))),
    "kwt1": Published("607 k"),
    "winner_195": Published("1,198,601", "56.2 M"),
    "winner_106": Published("1,092,416"),
}


def published_sizes() -> pd.DataFrame:
    """The sizes in PUBLISHED beside those of the networks here, counted in the same way, on the input of their authors."""
    table, norms = {}, (layers.BatchNormalization, SubSpectralNorm)
    for name, printed in PUBLISHED.items():
        network = (printed.build or ZOO[name].build)()
        normalised = [layer.output.shape[1:] for layer in network.layers if isinstance(layer, norms)]
        parameters = {
            "all": network.count_params(),
            "trained": sum(int(np.prod(weight.shape)) for weight in network.trainable_weights),
            "three of four": network.count_params() - sum(shape[-1] for shape in normalised),
        }
        table[name] = {
            "published": printed.parameters,
            "here": parameters[printed.counted],
            "counted": printed.counted,
            "published MACs": printed.multiplications,
            "MACs here": macs(network) + printed.norm * sum(int(np.prod(shape)) for shape in normalised),
        }
    return pd.DataFrame(table).T
