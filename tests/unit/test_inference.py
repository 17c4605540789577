"""From a model file and many clips to probabilities."""

import shutil

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from kws.audio import CLIP_SAMPLES
from kws.deploy import freeze, to_litert, write_frozen
from kws.inference import load_model, load_predictor, milliseconds, predict_clips
from kws.inference import test_clips as clips_to_predict
from kws.infra.files import CourseError
from kws.split import LABELS


@pytest.fixture(scope="module")
def model():
    """Says something else for each clip, without any training."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((CLIP_SAMPLES,)),
            keras.layers.Rescaling(30),
            keras.layers.Dense(12, activation="softmax"),
        ]
    )


def test_no_model_no_traceback_from_below(tmp_path):
    for name in ("none.keras", "broken.keras"):
        with pytest.raises(CourseError, match=f"{name}: no model to load .*4_full_training.ipynb"):
            load_model(tmp_path / name)
        (tmp_path / "broken.keras").write_text("broken")


def test_the_same_labels_from_each_form_of_a_model(model, clips, tmp_path):
    """tests/deploy/test_deploy.py has the zoo's models."""
    model.save(tmp_path / "model.keras")
    write_frozen(model, tmp_path / "frozen.pb")
    (tmp_path / "model.tflite").write_bytes(to_litert(freeze(model)))
    expected = model(clips).numpy()
    for path in tmp_path.iterdir():
        np.testing.assert_allclose(load_predictor(path)(clips), expected, atol=1e-4)
    assert 0 < milliseconds(tmp_path / "model.keras", runs=3) < 1_000


def keras_model(shape, path, *more):
    keras.Sequential([keras.Input(shape), *more]).save(path)


def litert_of_features(path):
    """A model as other courses make them, which takes features."""
    function = tf.function(lambda x: x[:, :4], autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec([1, 1_960]))
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module()).convert())


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("gone.keras", None, "there is no such model. Notebook 4_full_training"),
        ("gone.pb", None, "there is no such model. Notebook 5_freeze_and_pi"),
        ("x.h5", lambda path: path.write_text("x"), "a model is a .keras, .pb or .tflite file"),
        ("x.keras", lambda path: path.write_text("x"), "no model to load"),
        ("x.pb", lambda path: path.write_text("x"), "not a frozen graph"),
        ("x.tflite", lambda path: path.write_text("x"), "not a LiteRT model"),
        (
            "short.keras",
            lambda path: keras_model((8_000,), path, keras.layers.Dense(2)),
            "does not take a clip of 16,000 samples",
        ),
        (
            "deep.keras",
            lambda path: keras_model((CLIP_SAMPLES,), path, keras.layers.Reshape((2, 8_000))),
            r"gives \(2, 8000\) for a clip",
        ),
        ("features.tflite", litert_of_features, r"takes float32 \[1, 1960\], wanted float32 \[1, 16000\]"),
    ],
)
def test_files_that_predict_nothing(tmp_path, name, make, said):
    if make:
        make(tmp_path / name)
    with pytest.raises(CourseError, match=f"{name}: {said}"):
        load_predictor(tmp_path / name)


def test_order_is_that_of_the_sample(corpus, tmp_path):
    names = pd.read_csv(corpus / "sample_submission.csv").fname
    assert [p.name for p in clips_to_predict(corpus)] == list(names)
    shutil.copytree(corpus / "test", tmp_path / "test")
    assert [p.name for p in clips_to_predict(tmp_path)] == sorted(names)
    with pytest.raises(CourseError, match="no clips to predict"):
        clips_to_predict(tmp_path / "test")
    sample = tmp_path / "sample_submission.csv"
    for names, said in (
        (["../a.wav"], "'../a.wav' is not the name of a file"),
        (["a\\b.wav"], "is not the name of a file"),
        ([".."], "'..' is not the name"),
        ([""], "'' is not the name"),
        (["a.wav", "b.wav", "a.wav"], "a.wav stands there twice"),
    ):
        sample.write_text("fname,label\n" + "".join(f"{name},silence\n" for name in names))
        with pytest.raises(CourseError, match=said):
            clips_to_predict(tmp_path)


def test_names_with_accents_are_found_however_they_are_composed(tmp_path):
    (tmp_path / "test/audio").mkdir(parents=True)
    there = tmp_path / "test/audio/u\u0308ben.wav"
    there.touch()
    (tmp_path / "sample_submission.csv").write_text(
        "fname,label\n\u00fcben.wav,yes\ngone.wav,no\n", encoding="utf-8"
    )
    assert clips_to_predict(tmp_path) == [there, tmp_path / "test/audio/gone.wav"]


def test_bad_clips_get_silence_and_are_listed(corpus, model, tmp_path):
    good = clips_to_predict(corpus)[:5]
    (tmp_path / "bad.wav").write_text("bad")
    paths = [*good, tmp_path / "bad.wav", tmp_path / "gone.wav"]
    for label in (0, 1, 0):
        probabilities, unreadable = predict_clips(
            model.predict_on_batch, paths, tmp_path / "p.npy", bad=label
        )
        assert unreadable == [str(tmp_path / "bad.wav"), str(tmp_path / "gone.wav")]
        assert probabilities[5:].argmax(1).tolist() == [label] * 2
    assert not predict_clips(model.predict_on_batch, paths, tmp_path / "p.npy", bad=None)[0][5:].any()
    shutil.copy(good[0], tmp_path / "bad.wav")  # mended: what was predicted of it no longer holds
    assert predict_clips(model.predict_on_batch, paths, tmp_path / "p.npy")[1] == [str(tmp_path / "gone.wav")]


def test_a_bad_clip_whose_name_is_no_text(corpus, model, tmp_path):
    bad = tmp_path / "bad\udcff.wav"
    try:
        bad.write_text("bad")
    except OSError:
        pytest.skip("no such names on this file system")
    paths = [bad, clips_to_predict(corpus)[0]]
    probabilities, unreadable = predict_clips(model.predict_on_batch, paths, tmp_path / "p.npy")
    assert unreadable == [str(bad)] and probabilities[0].argmax() == 0 and probabilities[1].max() < 1


def test_interrupted_prediction_goes_on(corpus, model, tmp_path):
    paths, seen = clips_to_predict(corpus), []

    def interrupted(clips):
        seen.append(len(clips))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return model.predict_on_batch(clips)

    sizes = {"batch_size": 20, "part": 20}
    with pytest.raises(KeyboardInterrupt):
        predict_clips(interrupted, paths, tmp_path / "p.npy", "v1", **sizes)
    resumed, _ = predict_clips(interrupted, paths, tmp_path / "p.npy", "v1", **sizes)
    assert sum(seen[2:]) == len(paths) - 20
    whole, unreadable = predict_clips(model.predict_on_batch, paths, tmp_path / "q.npy", "v1", batch_size=20)
    np.testing.assert_allclose(resumed, whole, atol=1e-6)
    assert not unreadable and whole.shape == (len(paths), len(LABELS))
    names = [f"{name}.{suffix}" for name in "pq" for suffix in ("json", "npy")]
    assert sorted(p.name for p in tmp_path.iterdir()) == names, "something was left behind"
    read_back, _ = predict_clips(None, paths, tmp_path / "p.npy", "v1")
    assert np.array_equal(read_back, resumed), "predicted a second time"
    again, _ = predict_clips(model.predict_on_batch, paths[:20], tmp_path / "p.npy", "v1")
    assert len(again) == 20
    other, _ = predict_clips(lambda clips: np.eye(12)[[3] * len(clips)], paths[:20], tmp_path / "p.npy", "v2")
    assert (other.argmax(1) == 3).all(), "another model's predictions"


def test_a_stop_of_another_model_is_not_gone_on_with(corpus, model, tmp_path):
    paths, calls = clips_to_predict(corpus)[:30], []

    def stopped(clips):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return np.eye(12)[[3] * len(clips)]

    with pytest.raises(KeyboardInterrupt):
        predict_clips(stopped, paths, tmp_path / "p.npy", "other", part=10)
    found, _ = predict_clips(model.predict_on_batch, paths, tmp_path / "p.npy", "mine", part=10)
    expected, _ = predict_clips(model.predict_on_batch, paths, tmp_path / "q.npy", "mine")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_path_predicts_as_its_function(corpus, model, tmp_path):
    paths = clips_to_predict(corpus)[:20]
    model.save(tmp_path / "model.keras")
    by_path, _ = predict_clips(tmp_path / "model.keras", paths, tmp_path / "p.npy", "1")
    by_function, _ = predict_clips(model.predict_on_batch, paths, tmp_path / "q.npy", "1")
    np.testing.assert_allclose(by_path, by_function, atol=1e-6)
    assert (tmp_path / "p.npy").read_bytes() == (tmp_path / "q.npy").read_bytes()
