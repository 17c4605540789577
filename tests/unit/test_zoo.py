"""The zoo: published sizes, every model's gradients and file, its committed results."""

import functools

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT

from kws.inference import load_model
from kws.models import compile_model, stored_features, with_front_end
from kws.preprocess import FEATURES, write_store
from kws.zoo import FAMILIES, FREEZABLE, NOT_FREEZABLE, ZOO, GroupMax, published_sizes

SIZES = {  # parameters and multiplications, counted as the authors did, on their input: to the digit
    "conv": (926_860, 201_456_640),
    "ds_cnn_s": (23_756, 2_656_768),
    "ds_cnn_m": (138_128, 9_816_384),
    "ds_cnn_l": (416_772, 28_327_812),
    "tc_resnet8": (65_836, 1_522_560),
    "tc_resnet14": (304_620, 6_677_136),
    "matchboxnet": (77_214, 9_293_568),
    "bc_resnet1": (9_232, 3_042_908),
    "bc_resnet2": (27_284, 8_445_176),
    "bc_resnet3": (54_168, 16_206_804),
    "kwt1": (607_308, 73_698_560),
    "winner_195": (1_198_601, 56_236_224),
    "winner_106": (1_092_416, 49_015_296),
}
QUICK = ("linear", "gru", "ds_cnn_s", "tc_resnet8", "bc_resnet1", "winner_195")  # one of each kind


def full(name):
    """A parameter of a test that is for make full only."""
    return pytest.param(name, marks=pytest.mark.full)


@functools.cache
def built(name):
    """A network of the zoo, to be counted."""
    return ZOO[name].build()


def as_printed(number, printed):
    """A number, rounded as a printed one: 9_232 like "9.2 k" is 9.2 k."""
    if "," in printed:
        return f"{number:,}"
    digits, unit = printed.split()
    decimals = len(digits.partition(".")[2])
    return f"{number / {'k': 1e3, 'M': 1e6}[unit]:.{decimals}f} {unit}"


def test_sizes_are_the_published_ones():
    table = published_sizes()
    assert {name: (row["here"], row["MACs here"]) for name, row in table.iterrows()} == SIZES
    for name, row in table.iterrows():
        assert as_printed(row["here"], row["published"]) == row["published"], name
        if name in ("bc_resnet1", "bc_resnet2"):  # what else their authors count is not known
            assert row["MACs here"] == pytest.approx(1e6 * float(row["published MACs"].split()[0]), rel=0.02)
        elif row["published MACs"]:
            assert as_printed(row["MACs here"], row["published MACs"]) == row["published MACs"], name


def test_winner_106_has_attention_and_one_average():
    kinds = [type(layer).__name__ for layer in built("winner_106").layers]
    assert "Multiply" in kinds and "GlobalAveragePooling1D" in kinds and "GlobalMaxPooling1D" not in kinds
    attention = next(layer for layer in built("winner_106").layers if isinstance(layer, keras.layers.Dense))
    assert attention.units == 9 and not attention.use_bias


def test_matchboxnet_keeps_every_frame():
    depthwise = [la for la in built("matchboxnet").layers if isinstance(la, keras.layers.DepthwiseConv1D)]
    assert [layer.kernel_size[0] for layer in depthwise] == [11, 13, 15, 17, 29]
    assert {layer.output.shape[1] for layer in depthwise} == {98}
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in built("matchboxnet").layers)


def test_families_hold_every_model():
    names = [name for family in FAMILIES.values() for name in family]
    assert sorted(names) == sorted([*ZOO, "forest"])


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
    assert set(ZOO) | {"forest"} == set(rows.model)
    assert not rows.duplicated(["model", "seed"]).any()


@pytest.mark.full
def test_committed_sizes_are_of_this_zoo():
    for name, parameters in pd.read_csv(RESULTS).groupby("model").parameters.first().items():
        if name in ZOO and not ZOO[name].words:
            assert built(name).count_params() == parameters, name
