"""How often a network multiplies."""

from __future__ import annotations

import numpy as np

from kws.infra.backend import keras

layers = keras.layers


def macs(model: keras.Model) -> int:
    """Multiply-accumulates of one clip in the convolutional, dense, recurrent and attention layers of a Keras model."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += macs(layer)
        elif isinstance(layer, layers.Bidirectional):
            cell, steps = layer.forward_layer.cell, layer.input.shape[1]
            total += 2 * steps * (np.prod(cell.kernel.shape) + np.prod(cell.recurrent_kernel.shape))
        elif isinstance(layer, layers.RNN):
            cell, steps = layer.cell, layer.input.shape[1]
            total += steps * (np.prod(cell.kernel.shape) + np.prod(cell.recurrent_kernel.shape))
        elif isinstance(layer, layers.MultiHeadAttention):
            _, tokens, width = layer.output.shape
            total += tokens * layer.count_params() + 2 * tokens**2 * width
        elif hasattr(layer, "kernel"):
            total += np.prod(layer.output.shape[1:-1]) * np.prod(layer.kernel.shape)
    return int(total)
