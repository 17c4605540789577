"""Notebook 3: multiplications, layers, and the front end that stored features must agree with."""

import keras
import numpy as np

from kws.models import (
    SubSpectralNorm,
    compile_model,
    label_numbers,
    linear,
    macs,
    stored_features,
    tc_resnet,
    with_front_end,
)
from kws.preprocess import open_store
from kws.zoo import lstm


def test_macs_by_hand():
    x = keras.Input((10, 6))
    assert macs(keras.Model(x, keras.layers.Conv1D(4, 3, padding="same")(x))) == 10 * 3 * 6 * 4
    assert macs(keras.Model(x, keras.layers.GRU(5)(x))) == 10 * 3 * 5 * (6 + 5)
    assert macs(keras.Model(x, keras.layers.Bidirectional(keras.layers.LSTM(5))(x))) == 2 * 10 * 4 * 5 * 11
    attention = keras.layers.MultiHeadAttention(1, 6, use_bias=False)
    assert macs(keras.Model(x, attention(x, x))) == 10 * 4 * 36 + 2 * 100 * 6


def test_front_end_in_the_model_is_the_store(place, manifest):
    """A model on PCM says what its network says on stored features."""
    store, pcm = open_store(place, "log_mel"), open_store(place, "pcm")
    network = tc_resnet((24, 32, 48), 16)
    rows = np.arange(len(manifest)) < 50
    features, labels = stored_features(store, manifest, rows)
    whole = with_front_end(network, "log_mel", store.attrs["statistics"]).predict(
        pcm[:50].astype("float32") / 32_768, verbose=0
    )
    np.testing.assert_allclose(whole, keras.ops.softmax(network(features)), atol=1e-4)
    assert np.array_equal(labels.argmax(1), label_numbers(manifest)[:50])


def test_stored_pcm_is_what_the_front_end_makes(place, manifest):
    store = open_store(place, "pcm")
    features, _ = stored_features(store, manifest, np.arange(len(manifest)) < 5)
    statistics = store.attrs["statistics"]
    expected = (store[:5] / 32_768 - statistics["mean"][0]) / statistics["std"][0]
    np.testing.assert_allclose(features[..., 0], expected, rtol=1e-5, atol=1e-6)


def test_sub_spectral_norm_treats_bands_apart():
    x = np.random.default_rng(0).standard_normal((8, 6, 10, 3)).astype("float32")
    x[:, :, 4:6] = 100 * x[:, :, 4:6] + 7  # the third band of five
    norm = SubSpectralNorm(5)
    y = norm(x, training=True).numpy()
    bands = y.reshape(8, 6, 5, 2, 3)
    np.testing.assert_allclose(bands.mean((0, 1, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(bands.std((0, 1, 3)), 1, atol=1e-2)
    again = SubSpectralNorm.from_config(norm.get_config())
    assert again.bands == 5


def test_attention_weighs_frames():
    network = lstm()
    softmax = next(layer for layer in network.layers if isinstance(layer, keras.layers.Softmax))
    weights = keras.Model(network.input, softmax.output)(np.random.default_rng(0).random((2, 98, 40)))
    assert weights.shape == (2, 49, 1) and np.allclose(np.sum(weights, axis=1), 1, atol=1e-5)


def test_the_rate_warms_up_and_falls():
    network = compile_model(linear(), steps=200, learning_rate=1e-2)
    rate = [float(network.optimizer._learning_rate(step)) for step in range(201)]
    assert np.argmax(rate) == 10 and rate[10] == max(rate) == np.float32(1e-2)
    assert rate[0] < 1e-4 and rate[200] < 1e-6 and (np.diff(rate[10:]) <= 0).all()
    loss = float(network.loss(np.eye(12)[:1], np.zeros((1, 12), "float32")))
    assert loss == np.float32(np.log(12)) and network.loss.label_smoothing == 0.1
