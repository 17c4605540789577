"""The zoo: published sizes, every model's gradients and file, its committed results."""

import functools

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT

from kws.inference import load_model
from kws.models import compile_model, macs, matchboxnet, stored_features, with_front_end
from kws.preprocess import FEATURES, write_store
from kws.zoo import FREEZABLE, NOT_FREEZABLE, ZOO, GroupMax

PUBLISHED = {  # parameters, multiplications, both with the sources that notebook 3 names
    "conv": (926_860, 201e6),
    "ds_cnn_s": (24_000, 2.7e6),
    "ds_cnn_m": (138_000, 9.8e6),
    "ds_cnn_l": (417_000, 28e6),
    "tc_resnet8": (65_000, 1.5e6),
    "tc_resnet14": (305_000, 6.7e6),
    "kwt1": (607_000, None),
    "winner_195": (1_198_601, 56.2e6),
    "winner_106": (1_092_416, None),
}
QUICK = ("linear", "gru", "ds_cnn_s", "tc_resnet8", "bc_resnet1", "winner_195")  # one of each kind


def full(name):
    """A parameter of a test that is for make full only."""
    return pytest.param(name, marks=pytest.mark.full)


@functools.cache
def built(name):
    """A network of the zoo, to be counted."""
    return ZOO[name].build()


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    parameters, multiplications = PUBLISHED[name]
    to_the_last_digit = name in ("conv", "winner_195")
    assert built(name).count_params() == pytest.approx(parameters, rel=0 if to_the_last_digit else 0.02)
    if multiplications:
        assert macs(built(name)) == pytest.approx(multiplications, rel=0.02)


def test_sizes_that_count_trainable_weights():
    def trainable(network):
        return sum(int(np.prod(w.shape)) for w in network.trainable_weights)

    for name, parameters in {"bc_resnet1": 9.2e3, "bc_resnet2": 27.3e3, "bc_resnet3": 54.2e3}.items():
        assert trainable(built(name)) == pytest.approx(parameters, rel=0.005)
    assert trainable(matchboxnet(30, (98, 64))) == pytest.approx(77_000, rel=0.005), "30 words, 64 MFCCs"


@pytest.fixture(params=[name if name in QUICK else full(name) for name in ZOO])
def entry(request):
    return ZOO[request.param]


def test_every_model_steps_downhill_saves_and_loads(entry, clips, tmp_path):
    """One step along the gradient lowers the loss; saved and loaded the model says the same."""
    keras.utils.set_random_seed(0)
    few, targets = clips[:3], tf.one_hot([1, 5, 9], 12)
    features = np.asarray(FEATURES[entry.feature].compute(few))
    mean, std = features.mean(), features.std()
    network = entry.build(12)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    x = tf.constant((features - mean) / std)
    with tf.GradientTape() as tape:
        before = loss(targets, network(x, training=False))
    gradients = tape.gradient(before, network.trainable_variables)
    assert all(g is not None for g in gradients), "a weight that is not trained"
    length = tf.linalg.global_norm(gradients)
    assert np.isfinite(length) and length > 0
    for weight, gradient in zip(network.trainable_variables, gradients):
        weight.assign_sub(0.01 * gradient / length)
    assert loss(targets, network(x, training=False)) < before
    bins = features.shape[-1]
    model = with_front_end(network, entry.feature, {"mean": [mean] * bins, "std": [std] * bins})
    model.save(tmp_path / "model.keras")
    said = model(few).numpy()
    assert said.shape == (3, 12) and np.allclose(said.sum(1), 1, atol=1e-5)
    assert np.array_equal(load_model(tmp_path / "model.keras")(few), said)


@pytest.mark.parametrize("name", ["dnn", *map(full, ("linear", "ds_cnn_s", "tc_resnet14", "cnn_1d_fft"))])
def test_models_learn(name, place, tmp_path):
    keras.utils.set_random_seed(0)
    store = write_store(place._replace(work=tmp_path), ZOO[name].feature)
    x, y = stored_features(store, place.manifest, (place.manifest.split == "train").to_numpy())
    network = compile_model(ZOO[name].build(), steps=200)
    losses = network.fit(x, y, batch_size=64, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_words_become_labels_by_their_largest_logit(tmp_path):
    logits = np.random.default_rng(0).standard_normal((7, 5)).astype("float32")
    folded = GroupMax([1, 0, 1, 2, 1])(logits)
    expected = np.stack([logits[:, 1], logits[:, [0, 2, 4]].max(1), logits[:, 3]], axis=1)
    assert np.array_equal(folded, expected), "unknown is its largest word; the others are their word"
    more = GroupMax([1, 0, 1, 3, 1], labels=5)
    assert GroupMax.from_config(more.get_config()).get_config() == more.get_config()
    said = more(logits).numpy()
    assert np.array_equal(said[:, [0, 1, 3]], expected)
    assert np.array_equal(said[:, [2, 4]], np.repeat(logits.min(1, keepdims=True), 2, axis=1))
    words = keras.Input((5,))
    keras.Model(words, more(words)).save(tmp_path / "model.keras")
    assert np.array_equal(load_model(tmp_path / "model.keras")(logits), said)


def test_names_of_the_zoo():
    assert FREEZABLE == tuple(name for name in ZOO if name not in NOT_FREEZABLE) and set(NOT_FREEZABLE) < set(
        ZOO
    )
    for name, model in ZOO.items():
        assert model.feature in FEATURES, name
    assert [name for name, model in ZOO.items() if model.words] == ["winner_106"]


RESULTS = ROOT / "benchmarks/results/speech_commands_16k/experiments.csv"


def test_committed_results_are_of_this_zoo():
    rows = pd.read_csv(RESULTS)
    assert set(ZOO) | {"forest"} == set(rows.model), "a model without a result, or a result without a model"
    assert not rows.duplicated(["model", "seed"]).any()


@pytest.mark.full
def test_committed_sizes_are_of_this_zoo():
    for name, parameters in pd.read_csv(RESULTS).groupby("model").parameters.first().items():
        if name in ZOO and not ZOO[name].words:
            assert built(name).count_params() == parameters, name
