"""Notebook 3: the zoo, the recipe, scores."""

import keras
import numpy as np
import pytest

from kws.models import (
    ZOO,
    compile_model,
    label_numbers,
    load_model,
    macs,
    score,
    stored_features,
    with_front_end,
)
from kws.preprocess import open_store
from kws.split import LABELS, CorpusError


@pytest.mark.parametrize(
    ("name", "parameters", "multiplications"), [("ds_cnn_s", 24e3, 2.7e6), ("tc_resnet14", 305e3, 6.7e6)]
)
def test_sizes_are_those_of_the_papers(name, parameters, multiplications):
    body = ZOO[name].build()
    assert body.count_params() == pytest.approx(parameters, rel=0.05)
    assert macs(body) == pytest.approx(multiplications, rel=0.02)


@pytest.mark.parametrize("name", ZOO)
def test_every_model_learns_saves_and_loads(name, work, manifest, clips, tmp_path):
    keras.utils.set_random_seed(0)
    store = open_store(work, ZOO[name].feature, manifest)
    x, y = stored_features(store, manifest, (manifest.split == "train").to_numpy())
    body = compile_model(ZOO[name].build(), steps=200)
    losses = body.fit(x, y, batch_size=64, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model = with_front_end(body, ZOO[name].feature, store.attrs["statistics"])
    model.save(tmp_path / "model.keras")
    probabilities = model.predict(clips, verbose=0)
    assert probabilities.shape == (len(clips), len(LABELS))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert np.array_equal(load_model(tmp_path / "model.keras").predict(clips, verbose=0), probabilities)


def test_front_end_in_the_model_is_the_store(work, manifest):
    """A model on PCM says what its body says on stored features."""
    store, pcm = open_store(work, "log_mel", manifest), open_store(work, "pcm", manifest)
    body = ZOO["tc_resnet14"].build()
    rows = np.arange(len(manifest)) < 50
    features, labels = stored_features(store, manifest, rows)
    whole = with_front_end(body, "log_mel", store.attrs["statistics"]).predict(
        pcm[:50].astype("float32") / 32_768, verbose=0
    )
    np.testing.assert_allclose(whole, keras.ops.softmax(body(features)), atol=1e-4)
    assert np.array_equal(labels.argmax(1), label_numbers(manifest)[:50])


def test_score():
    labels = np.array([2] * 60 + [3] * 40)
    result = score(labels, np.full(100, 2))
    assert result["accuracy"] == result["chance"] == 0.6 and result["n"] == 100
    assert result["low"] == pytest.approx(0.502, abs=0.001) and result["high"] == pytest.approx(
        0.691, abs=0.001
    )
    assert result["f1"] == pytest.approx(0.375)


def test_no_model_no_traceback_from_below(tmp_path):
    with pytest.raises(CorpusError, match="4_full_training.ipynb"):
        load_model(tmp_path / "none.keras")
    (tmp_path / "broken.keras").write_text("broken")
    with pytest.raises(CorpusError, match="broken.keras"):
        load_model(tmp_path / "broken.keras")
