"""Batch normalisation of each band of frequencies by itself."""

from __future__ import annotations

from typing import Any

from kws.infra.backend import keras

layers = keras.layers


@keras.saving.register_keras_serializable("kws")
class SubSpectralNorm(layers.Layer):
    """Batch normalisation of each frequency band by itself: [n, time, frequency, channels]. Source: arXiv:2103.13620."""

    def __init__(self, bands: int = 5, momentum: float = 0.95, **kwargs: Any):
        super().__init__(**kwargs)
        self.bands, self.momentum = bands, momentum
        self.norm = layers.BatchNormalization(momentum=momentum)

    def build(self, shape):
        self.norm.build((None, shape[1], shape[2] // self.bands, self.bands * shape[3]))

    def call(self, x, training=False):
        _, time, frequency, channels = x.shape
        x = keras.ops.reshape(x, (-1, time, self.bands, frequency // self.bands, channels))
        x = keras.ops.transpose(x, (0, 1, 3, 2, 4))
        x = keras.ops.reshape(x, (-1, time, frequency // self.bands, self.bands * channels))
        x = self.norm(x, training=training)
        x = keras.ops.reshape(x, (-1, time, frequency // self.bands, self.bands, channels))
        return keras.ops.reshape(keras.ops.transpose(x, (0, 1, 3, 2, 4)), (-1, time, frequency, channels))

    def get_config(self):
        return super().get_config() | {"bands": self.bands, "momentum": self.momentum}
