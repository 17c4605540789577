"""Notebook 3: the zoo, the recipe, scores."""

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import tensorflow as tf
from conftest import ROOT
from sklearn.metrics import precision_score, recall_score

from kws.models import (
    FREEZABLE,
    ZOO,
    GroupMax,
    SubSpectralNorm,
    compile_model,
    label_numbers,
    load_model,
    macs,
    matchboxnet,
    mean_of_seeds,
    milliseconds,
    read_table,
    recurrent,
    cached_row,
    select_rows,
    score,
    stored_features,
    with_front_end,
)
from kws.preprocess import FEATURES, open_store, write_store
from kws.split import LABELS, CourseError

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


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    parameters, multiplications = PUBLISHED[name]
    network = ZOO[name].build()
    assert network.count_params() == pytest.approx(parameters, rel=0.02)
    if multiplications:
        assert macs(network) == pytest.approx(multiplications, rel=0.02)


def test_sizes_that_are_published_to_the_last_digit():
    assert ZOO["conv"].build().count_params() == 926_860
    assert ZOO["winner_195"].build().count_params() == 1_198_601


def test_sizes_that_count_trainable_weights():
    def trainable(network):
        return sum(int(np.prod(w.shape)) for w in network.trainable_weights)

    for name, parameters in {"bc_resnet1": 9.2e3, "bc_resnet2": 27.3e3, "bc_resnet3": 54.2e3}.items():
        assert trainable(ZOO[name].build()) == pytest.approx(parameters, rel=0.005)
    assert trainable(matchboxnet(30, (98, 64))) == pytest.approx(77_000, rel=0.005), "30 words, 64 MFCCs"


def test_macs_by_hand():
    x = keras.Input((10, 6))
    assert macs(keras.Model(x, keras.layers.Conv1D(4, 3, padding="same")(x))) == 10 * 3 * 6 * 4
    assert macs(keras.Model(x, keras.layers.GRU(5)(x))) == 10 * 3 * 5 * (6 + 5)
    assert macs(keras.Model(x, keras.layers.Bidirectional(keras.layers.LSTM(5))(x))) == 2 * 10 * 4 * 5 * 11
    attention = keras.layers.MultiHeadAttention(1, 6, use_bias=False)
    assert macs(keras.Model(x, attention(x, x))) == 10 * 4 * 36 + 2 * 100 * 6


@pytest.fixture(params=ZOO)
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


@pytest.mark.parametrize("name", ["linear", "dnn", "ds_cnn_s", "tc_resnet14", "cnn_1d_fft"])
def test_models_learn(name, work, manifest, tmp_path):
    keras.utils.set_random_seed(0)
    store = write_store(tmp_path, ZOO[name].feature, manifest)
    x, y = stored_features(store, manifest, (manifest.split == "train").to_numpy())
    network = compile_model(ZOO[name].build(), steps=200)
    losses = network.fit(x, y, batch_size=64, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_front_end_in_the_model_is_the_store(work, manifest):
    """A model on PCM says what its network says on stored features."""
    store, pcm = open_store(work, "log_mel", manifest), open_store(work, "pcm", manifest)
    network = ZOO["tc_resnet14"].build()
    rows = np.arange(len(manifest)) < 50
    features, labels = stored_features(store, manifest, rows)
    whole = with_front_end(network, "log_mel", store.attrs["statistics"]).predict(
        pcm[:50].astype("float32") / 32_768, verbose=0
    )
    np.testing.assert_allclose(whole, keras.ops.softmax(network(features)), atol=1e-4)
    assert np.array_equal(labels.argmax(1), label_numbers(manifest)[:50])


def test_stored_pcm_is_what_the_front_end_makes(work, manifest):
    store = open_store(work, "pcm", manifest)
    features, _ = stored_features(store, manifest, np.arange(len(manifest)) < 5)
    statistics = store.attrs["statistics"]
    expected = (store[:5] / 32_768 - statistics["mean"][0]) / statistics["std"][0]
    np.testing.assert_allclose(features[..., 0], expected, rtol=1e-5, atol=1e-6)


def test_fold():
    """unknown is its largest word; the others are their word."""
    logits = np.random.default_rng(0).standard_normal((7, 5)).astype("float32")
    folded = GroupMax([1, 0, 1, 2, 1])(logits)
    expected = np.stack([logits[:, 1], logits[:, [0, 2, 4]].max(1), logits[:, 3]], axis=1)
    assert np.array_equal(folded, expected)


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
    network = recurrent("lstm")
    softmax = next(layer for layer in network.layers if isinstance(layer, keras.layers.Softmax))
    weights = keras.Model(network.input, softmax.output)(np.random.default_rng(0).random((2, 98, 40)))
    assert weights.shape == (2, 49, 1) and np.allclose(np.sum(weights, axis=1), 1, atol=1e-5)


def test_milliseconds(work, manifest, tmp_path):
    statistics = open_store(work, "log_mel", manifest).attrs["statistics"]
    with_front_end(ZOO["linear"].build(), "log_mel", statistics).save(tmp_path / "model.keras")
    assert 0 < milliseconds(tmp_path / "model.keras", runs=3) < 1_000


def test_score():
    labels = np.array([2] * 60 + [3] * 40)
    result = score(labels, np.full(100, 2))
    assert result["accuracy"] == result["chance"] == 0.6 and result["n"] == 100
    assert result["low"] == pytest.approx(0.502, abs=0.001) and result["high"] == pytest.approx(
        0.691, abs=0.001
    )
    assert result["f1"] == pytest.approx(0.375)
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    result = score(labels, predicted)
    assert result["precision"] == pytest.approx(precision_score(labels, predicted, average="macro"))
    assert result["recall"] == pytest.approx(recall_score(labels, predicted, average="macro"))


def test_a_row_is_made_once(tmp_path):
    made, path = [], tmp_path / "rows.csv"

    def make():
        made.append(1)
        return {"accuracy": 0.5, "n": 10, "chance": 0.1}

    for seed in (0, 1, 0):
        row = cached_row(path, {"model": "dnn", "seed": seed, "manifest": "0123"}, make)
    assert row["accuracy"] == 0.5 and row["seed"] == 0 and row["date"]
    assert len(made) == len(read_table(path)) == 2 and not path.with_suffix(".part").exists()
    assert read_table(path)[0]["manifest"] == "0123", "a hash of digits is no number"
    cached_row(path, {"model": "dnn", "seed": 0, "manifest": "other"}, make)
    assert len(made) == 3, "a row of other clips was taken"


def test_rows_of_an_experiment(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    with pytest.raises(CourseError, match="EXPERIMENTS=more"):
        select_rows(path, True, experiment="clips")
    for seed, accuracy in ((0, 0.5), (1, 0.7)):
        key = {"experiment": "clips", "variant": "250 clips", "epochs": 3, "seed": seed}
        cached_row(path, key, lambda accuracy=accuracy: {"accuracy": accuracy, "n": 100, "chance": 0.1})
    rows = select_rows(path, False, experiment="clips", epochs=3)
    assert (
        len(rows) == 2
        and "in a longer run: 100 validation clips, chance 10.0%, 3 epochs" in capsys.readouterr().out
    )
    mean = mean_of_seeds(rows, "variant").loc["250 clips"]
    assert mean.accuracy == pytest.approx(0.6) and mean.seeds == 2 and mean.spread == pytest.approx(0.2)
    assert (mean.low, mean.high) == tuple(scipy.stats.binomtest(60, 100).proportion_ci(method="wilson"))
    with pytest.raises(CourseError, match="no rows"):
        select_rows(path, False, experiment="other")


def test_no_model_no_traceback_from_below(tmp_path):
    with pytest.raises(CourseError, match="4_full_training.ipynb"):
        load_model(tmp_path / "none.keras")
    (tmp_path / "broken.keras").write_text("broken")
    with pytest.raises(CourseError, match="broken.keras"):
        load_model(tmp_path / "broken.keras")


def test_committed_results_are_of_this_zoo():
    rows = pd.read_csv(ROOT / "benchmarks/results/speech_commands_16k/experiments.csv")
    assert set(ZOO) | {"forest"} == set(rows.model), "a model without a result, or a result without a model"
    assert not rows.duplicated(["model", "seed"]).any()
    for name, parameters in rows.groupby("model").parameters.first().items():
        if name in ZOO and not ZOO[name].words:
            assert ZOO[name].build(len(LABELS)).count_params() == parameters, name
    assert set(FREEZABLE) <= set(ZOO)
