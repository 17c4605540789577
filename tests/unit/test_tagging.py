"""Several labels for a clip: tables, features, MobileNet, training, evaluation, predictions, commands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile
import tensorflow as tf
from conftest import ROOT

from kws import cli, tagging
from kws.audio import write_wav
from kws.inference import load_model
from kws.infra.files import CourseError
from kws.infra.synthetic import SOUNDS, make_tags
from kws.metrics import lwlrap
from kws.models import macs
from kws.tagging import (
    FrameSettings,
    class_list,
    clip_batches,
    compile_tags,
    evaluate_tags,
    load_tagger,
    log_mel_windows,
    mobilenet_v1,
    parse_window,
    read_settings,
    read_tags,
    score_clips,
    tag_batches,
    targets_of,
    train_tags,
    warm_start_tags,
    whole_windows,
    write_tags,
)

COARSE = FrameSettings(hop=0.05, bands=24)
TINY = {"width": 0.05}
SIZES = {"train_curated": 16, "train_noisy": 20, "test": 8}


@pytest.fixture(scope="module")
def tags(tmp_path_factory):
    """A small corpus of made sounds (read only)."""
    return make_tags(tmp_path_factory.mktemp("tags") / "corpus", SIZES)


@pytest.fixture(scope="module")
def classes(tags):
    return class_list(tags / "sample_submission.csv")


@pytest.fixture(scope="module")
def clips(tags, classes):
    return {
        "curated": read_tags(tags / "train_curated.csv", tags / "train_curated", classes),
        "noisy": read_tags(tags / "train_noisy.csv", tags / "train_noisy", classes),
        "test": read_tags(tags / "solution.csv", tags / "test", classes),
    }


@pytest.fixture(scope="module")
def shallow():
    """MobileNet with two blocks in place of thirteen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tagging, "MOBILENET", ((64, 1), (128, 2)))
        yield


@pytest.fixture(scope="module")
def run(clips, classes, shallow, tmp_path_factory):
    """A training of two epochs (read only)."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_tags(folder, clips["curated"], classes, 2, windows=COARSE, model=TINY)
    return folder


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_mobilenet_is_that_of_the_table():
    network = mobilenet_v1(80)
    kernels = {layer.name: layer for layer in network.layers if hasattr(layer, "kernel")}
    multiplies = {
        name: np.prod(layer.output.shape[1:-1]) * np.prod(layer.kernel.shape)
        for name, layer in kernels.items()
    }
    weights = sum(np.prod(layer.kernel.shape) for layer in kernels.values())
    assert round(weights / 1e6, 1) == 3.3 and round(macs(network) / 1e6, 1) == 432.4
    assert sum(multiplies.values()) == macs(network)
    for block, millions in {1: 11.2, 2: 21.0, 4: 20.4, 6: 20.8, 12: 22.2, 13: 44.4}.items():
        both = multiplies[f"depthwise{block}"] + multiplies[f"pointwise{block}"]
        assert round(both / 1e6, 1) == millions, block
    assert kernels["pointwise13"].output.shape == (None, 7, 6, 1_024)
    scales = 4 * (16 + sum(filters for filters, _ in tagging.MOBILENET))
    scales += 4 * sum(kernels[f"depthwise{i}"].output.shape[-1] for i in range(1, 14))
    assert network.count_params() == weights + 80 + scales


def test_mobilenet_narrower_and_pooled():
    assert mobilenet_v1(5, width=0.5).get_layer("pointwise13").output.shape[-1] == 512
    networks = [mobilenet_v1(5, (20, 24), 0.05, pool) for pool in ("mean", "max")]
    networks[1].set_weights(networks[0].get_weights())
    pictures = np.random.default_rng(0).standard_normal((3, 20, 24)).astype("float32")
    inside = keras.Model(networks[0].input, networks[0].get_layer("pointwise13_norm").output)(pictures)
    values = keras.ops.relu(inside).numpy()
    dense = networks[0].get_layer("logits")
    for network, pooled in zip(networks, (values.mean((1, 2)), values.max((1, 2)))):
        assert np.allclose(network(pictures), pooled @ dense.kernel + dense.bias, atol=1e-5)


def test_features_are_librosas():
    pcm = np.random.default_rng(0).uniform(-0.5, 0.5, 66_150).astype("float32")
    pictures = log_mel_windows(whole_windows(pcm)).numpy()
    assert pictures.shape == (2, 100, 96) and np.array_equal(pictures[0, 50:], pictures[1, :50])
    front = np.pad(pcm, (473, 2_048))  # librosa puts its window of 1,102 into the middle of 2,048
    mel = librosa.feature.melspectrogram(
        y=front, sr=44_100, n_fft=2_048, hop_length=441, win_length=1_102, center=False, power=1,
        n_mels=96, fmin=20, fmax=20_000, htk=True, norm=None,
    )  # fmt: skip
    assert np.allclose(pictures[0], np.log(mel.T[:100] + 0.001), atol=1e-3)


@pytest.mark.parametrize(
    "samples, count", [(0, 1), (1, 1), (44_100, 1), (44_101, 2), (66_150, 2), (66_151, 3), (132_300, 5)]
)
def test_windows_cover_a_clip(samples, count):
    assert FrameSettings().count(samples) == count
    pcm = whole_windows(np.ones(samples, "float32"))
    assert pcm.sum() == samples and len(pcm) == 44_100 + 22_050 * (count - 1)
    assert log_mel_windows(pcm).shape == (count, 100, 96)


def test_features_have_parameters():
    other = FrameSettings(16_000, 0.03, 0.02, 40, 50, 7_000, 0.1, 2.0, 0.5)
    pictures = log_mel_windows(whole_windows(np.zeros(40_000, "float32"), other), other)
    assert pictures.shape == (2, 100, 40) and np.allclose(pictures, np.log(0.1))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hop": 0}, "hop=0: more than 0"),
        ({"bands": -1}, "bands=-1: more than 0"),
        ({"offset": -0.1}, "offset=-0.1"),
        ({"high": 30_000.0}, "frequencies up to 22,050 Hz. Set high=22050 or less"),
        ({"low": 20_000.0}, "low=20000 high=20000"),
        ({"hop": 1e-6}, "shorter than a sample or a frame"),
        ({"window": 0.001}, "shorter than a sample or a frame"),
    ],
    ids=str,
)
def test_windows_that_are_none(changed, said):
    with pytest.raises(CourseError, match=said):
        FrameSettings(**changed).check()


def test_windows_from_a_text():
    texts = ("bands=64", "window=2.0", "low=0", "offset=0")
    settings = FrameSettings(**dict(map(parse_window, texts))).check()
    assert settings == FrameSettings(bands=64, window=2.0, low=0, offset=0)
    for text, said in (
        ("bends=3", "bends: none of sample_rate, frame"),
        ("bands=x", "bands=x: a number"),
        ("bands", "bands: a number"),
    ):
        with pytest.raises(CourseError, match=said):
            parse_window(text)


def test_made_corpus(tags, classes, clips):
    assert classes == list(SOUNDS) and len(classes) >= 12
    assert {path.name for path in tags.iterdir()} >= {
        "train_curated.csv",
        "train_noisy.csv",
        "sample_submission.csv",
    }
    info = soundfile.info(clips["test"].path[0])
    assert (info.samplerate, info.channels, info.subtype) == (44_100, 1, "PCM_16")
    assert (
        set(targets_of(clips["curated"], classes).sum(1)) <= {1, 2, 3} and len(set(clips["test"].windows)) > 1
    )


@pytest.mark.parametrize(
    "lines, said",
    [
        ("test0000.wav,bell\ntest0001.wav,dragon", "line 3: test0001.wav has the label 'dragon'"),
        ('test0000.wav,"bell,dragon"', "line 2: test0000.wav has the label 'dragon'"),
        ("test0000.wav,bell\nnone.wav,bell", "line 3: none.wav is not in"),
        ("test0000.wav,bell\ntest0000.wav,hum", "line 3: test0000.wav stands in line 2 already"),
        ("test0000.wav,", "line 2: test0000.wav has no labels"),
        ("../solution.csv,bell", "cannot be read"),
        ("", "no clips"),
    ],
)
def test_bad_tables(tags, classes, tmp_path, lines, said):
    (tmp_path / "bad.csv").write_text(f"fname,labels\n{lines}\n")
    with pytest.raises(CourseError, match="bad.csv.*" + said):
        read_tags(tmp_path / "bad.csv", tags / "test", classes)


def test_clips_of_another_rate_are_told_before_training(tags, classes, tmp_path):
    write_wav(tmp_path / "slow.wav", np.zeros(16_000), 16_000)
    (tmp_path / "tags.csv").write_text("fname,labels\nslow.wav,bell\n")
    with pytest.raises(
        CourseError, match=r"line 2: slow.wav has 16,000 Hz, 1 channel\(s\); wanted 44,100 Hz"
    ):
        read_tags(tmp_path / "tags.csv", tmp_path, classes)


def test_tables_that_are_none(tags, classes, tmp_path):
    with pytest.raises(CourseError, match="nowhere.csv: there is no such file"):
        read_tags(tmp_path / "nowhere.csv", tags / "test", classes)
    (tmp_path / "other.csv").write_text("file,tag\na.wav,bell\n")
    with pytest.raises(CourseError, match="other.csv: has no column fname, labels; its columns: file, tag"):
        read_tags(tmp_path / "other.csv", tags / "test", classes)
    (tmp_path / "empty.csv").write_text("fname\na.wav\n")
    with pytest.raises(CourseError, match="no classes"):
        class_list(tmp_path / "empty.csv")


def test_classes_from_a_training_table(tmp_path):
    (tmp_path / "train.csv").write_text('fname,labels\na.wav,"hum,bell"\nb.wav,click\n')
    assert class_list(tmp_path / "train.csv") == ["bell", "click", "hum"]
    (tmp_path / "sample.csv").write_text("fname,hum,bell\na.wav,0,0\n")
    assert class_list(tmp_path / "sample.csv") == ["hum", "bell"]


def epoch_of(clips, classes, **options):
    """Sums of the pictures and labels of the first epoch's windows."""
    count = clips.windows.sum()
    batches = tag_batches(clips, classes, COARSE, 16, **options).take(-(-count // 16))
    pictures, targets = (np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator()))
    assert len(pictures) == len(targets) == count
    return pictures.sum((1, 2)), targets


@pytest.mark.parametrize("pool", [2_000, 20], ids=["all in memory", "not all in memory"])
def test_an_epoch_has_every_window_once_and_mixes_clips(clips, classes, pool):
    curated = clips["curated"]
    sums, targets = epoch_of(curated, classes, pool=pool)
    each = {}
    for path, own in zip(curated.path, targets_of(curated, classes)):
        pictures = next(iter(clip_batches([path], 1, COARSE)))[0].values.numpy()
        each |= {float(total): own for total in pictures.sum((1, 2))}
    assert sorted(each) == pytest.approx(sorted(sums.tolist()))
    for total, target in zip(sums, targets):
        nearest = min(each, key=lambda known: abs(known - total))
        assert np.array_equal(each[nearest], target), "a window with the labels of another clip"
    next_epoch, _ = epoch_of(curated, classes, first_epoch=1, pool=pool)
    assert not np.array_equal(sums, next_epoch) and np.allclose(np.sort(sums), np.sort(next_epoch))
    assert np.array_equal(next_epoch, epoch_of(curated, classes, first_epoch=1, pool=pool)[0])


def test_labels_are_smoothed_towards_a_half():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Activation("linear")])
    compile_tags(network, 1, smoothing=0.3)
    logits, truth = np.array([[2.0, -1.0]], "float32"), np.array([[1.0, 0.0]], "float32")
    p, soft = 1 / (1 + np.exp(-logits)), np.array([[0.85, 0.15]])
    expected = -np.mean(soft * np.log(p) + (1 - soft) * np.log(1 - p))
    assert float(network.loss(truth, logits)) == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_decays_every_few_epochs():
    rate = compile_tags(mobilenet_v1(2, (20, 24), 0.05), 10, 1e-2, 0.5, 2.5).optimizer._learning_rate
    assert [float(rate(step)) for step in (0, 24, 25, 50)] == pytest.approx([1e-2, 1e-2, 5e-3, 2.5e-3])
    rate = compile_tags(mobilenet_v1(2, (20, 24), 0.05), 10, 1e-2).optimizer._learning_rate
    assert float(rate(1_000)) == pytest.approx(1e-2)


def test_gone_on_it_ends_with_the_same_weights(run, clips, classes, tmp_path):
    options = {"windows": COARSE, "model": TINY}
    train_tags(tmp_path / "run", clips["curated"], classes, 1, **options)
    last = train_tags(tmp_path / "run", clips["curated"], classes, 2, **options)
    assert last.name == "epoch-0002.keras"
    assert same(load_model(last).get_weights(), load_model(run / last.name).get_weights())
    assert pd.read_csv(tmp_path / "run/history.csv").epoch.tolist() == [0, 1]
    assert list((run / "logs/training").rglob("events*"))
    written = last.stat().st_mtime_ns
    assert train_tags(tmp_path / "run", clips["curated"], classes, 2, **options) == last
    assert last.stat().st_mtime_ns == written, "the same training was done twice"
    with pytest.raises(CourseError, match="has another training: seed is 0, wanted 1"):
        train_tags(tmp_path / "run", clips["curated"], classes, 2, seed=1, **options)
    other = train_tags(tmp_path / "run", clips["curated"], classes, 1, seed=1, resume=False, **options)
    assert not last.exists() and not same(
        load_model(other).get_weights(), load_model(run / other.name).get_weights()
    )


def test_nan_stops_with_a_message(clips, classes, tmp_path, shallow):
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        recipe, batch = {"learning_rate": np.nan}, 4
        train_tags(
            tmp_path, clips["test"], classes, 1, windows=COARSE, model=TINY, recipe=recipe, batch_size=batch
        )
    assert not list(tmp_path.glob("epoch*"))


def test_warm_start_leaves_out_a_head_for_other_classes(run, classes, capsys):
    start = run / "epoch-0002.keras"
    old = load_model(start)
    network = mobilenet_v1(len(classes), (20, 24), 0.05)
    assert "logits" in warm_start_tags(network, classes, start) and capsys.readouterr().out == ""
    assert same(network.get_weights(), old.get_weights())
    for others in (classes[:5], classes[::-1]):  # fewer; as many, in another order
        network = mobilenet_v1(len(others), (20, 24), 0.05)
        head = network.get_layer("logits").get_weights()
        taken = warm_start_tags(network, others, start)
        assert "its layer logits is left out" in capsys.readouterr().out
        assert "logits" not in taken and same(network.get_layer("logits").get_weights(), head)
        assert same(network.get_layer("pointwise2").get_weights(), old.get_layer("pointwise2").get_weights())
    network = mobilenet_v1(len(classes), (20, 24), 0.05)
    taken = warm_start_tags(network, classes, start, include=["pointwise"], exclude=["_norm", "2"])
    assert taken == ["pointwise1"]
    with pytest.raises(CourseError, match="layer conv0 has weights"):
        warm_start_tags(mobilenet_v1(len(classes), (20, 24), 0.2), classes, start)


def test_a_training_from_a_warm_start(run, clips, classes, tmp_path, monkeypatch):
    monkeypatch.setattr(tagging, "warm_start_tags", lambda *args: started.append(args[2:]))
    started = []
    path = train_tags(
        tmp_path / "next", clips["noisy"], classes, 1, windows=COARSE, model=TINY,
        start=run / "epoch-0002.keras", exclude=("logits",),
    )  # fmt: skip
    assert started == [(run / "epoch-0002.keras", ("",), ("logits",))]
    assert read_settings(path)["start"] == "run/epoch-0002.keras" and read_settings(path)["windows"] == COARSE


def test_evaluation_skips_what_is_there(run, clips, classes, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    asked = []

    def counted(checkpoint, clips):
        asked.append(checkpoint.stem)
        return score_clips(checkpoint, clips)

    monkeypatch.setattr(tagging, "score_clips", counted)
    last = (tmp_path / "run/epoch-0002.keras").rename(tmp_path / "later")
    evaluate_tags(tmp_path / "run", clips["test"])
    last.rename(tmp_path / "run/epoch-0002.keras")
    table = evaluate_tags(tmp_path / "run", clips["test"])
    assert asked == ["epoch-0001", "epoch-0002"], "the first was evaluated twice, or the second never"
    scores = score_clips(tmp_path / "run/epoch-0002.keras", clips["test"])
    overall, own = lwlrap(targets_of(clips["test"], classes), scores)
    assert table.lwlrap[1] == pytest.approx(overall)
    assert np.allclose(
        table.loc[1, [f"Lwlrap({name})" for name in classes]].astype(float), own, equal_nan=True
    )
    assert list((tmp_path / "run/logs/evaluation").glob("events*"))
    evaluate_tags(tmp_path / "run", clips["test"][:4])
    assert len(asked) == 4, "other clips are another evaluation"
    with pytest.raises(CourseError, match="no checkpoints"):
        evaluate_tags(tmp_path, clips["test"])


def test_evaluation_shows_a_partial_result(run, clips, capfd, monkeypatch):
    monkeypatch.setattr(tagging, "tqdm", lambda *args, **options: bar)

    class Bar:
        shown = []

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, count):
            pass

        def set_postfix(self, lwlrap, refresh):
            self.shown.append(float(lwlrap))

    bar = Bar()
    scores = score_clips(run / "epoch-0001.keras", clips["test"], batch_size=3)
    truth = targets_of(clips["test"], read_settings(run / "epoch-0001.keras")["classes"])
    assert bar.shown == [round(lwlrap(truth[:n], scores[:n])[0], 3) for n in (3, 6, 8)]


def test_predictions_in_the_samples_order(run, tags, clips, classes, tmp_path):
    folder = tmp_path / "asked"
    folder.mkdir()
    write_wav(folder / "short.wav", np.full(100, 0.5), 44_100)
    (folder / "broken.wav").write_bytes(b"no sound")
    write_wav(folder / "slow.wav", np.zeros(16_000), 16_000)
    (folder / "long.wav").write_bytes(Path(clips["test"].path[0]).read_bytes())
    columns = classes[::-1]
    sample = pd.DataFrame(
        0, index=["long.wav", "broken.wav", "short.wav", "gone.wav", "slow.wav"], columns=columns
    )
    sample.rename_axis("fname").to_csv(tmp_path / "sample.csv")
    checkpoint, target = run / "epoch-0002.keras", tmp_path / "tags.csv"
    _, unreadable = write_tags(checkpoint, folder, tmp_path / "sample.csv", target, batch_size=2)
    assert [Path(path).name for path in unreadable] == ["broken.wav", "gone.wav", "slow.wav"]
    table = pd.read_csv(target, index_col="fname")
    assert list(table.columns) == columns and list(table.index) == list(sample.index)
    assert (table.loc[["broken.wav", "gone.wav", "slow.wav"]] == 0).all().all()
    network, (pcm, _) = load_model(checkpoint), soundfile.read(folder / "long.wav", dtype="float32")
    for name, sound in {"long.wav": pcm, "short.wav": np.full(100, 0.5, "float32")}.items():
        windows = log_mel_windows(whole_windows(sound, COARSE), COARSE)
        expected = tf.sigmoid(network(windows)).numpy().mean(0)
        assert np.allclose(table.loc[name, classes].astype(float), expected, atol=1e-4), name
    sample.drop(columns="bell").rename_axis("fname").to_csv(tmp_path / "sample.csv")
    with pytest.raises(CourseError, match="its classes are not those of .*: bell"):
        write_tags(checkpoint, folder, tmp_path / "sample.csv", target)
    sample.rename({"long.wav": "../long.wav"}).rename_axis("fname").to_csv(tmp_path / "sample.csv")
    with pytest.raises(CourseError, match="'../long.wav' is not the name of a file"):
        write_tags(checkpoint, folder, tmp_path / "sample.csv", target)


def test_scores_are_means_over_windows(run, clips):
    batches = clip_batches(clips["test"].path, 4, COARSE)
    windows, _ = next(iter(batches))
    predict = load_tagger(run / "epoch-0001.keras")
    together, alone = predict(windows), [predict(windows[i : i + 1])[0] for i in range(4)]
    assert together.shape == (4, 16) and np.allclose(together, alone, atol=1e-5)


def test_commands(tags, tmp_path, capsys, shallow):
    options = f"--features hop=0.05 bands=24 --width 0.05 --classes {tags / 'sample_submission.csv'}".split()

    def train(part, name, *more):
        where = ["--train-csv", tags / f"{part}.csv", "--train-clips", tags / part, "--run", tmp_path / name]
        cli.main([*map(str, ("train", "--task", "tagging", *where)), *options, "--epochs", "1", *more])
        return capsys.readouterr().out.split()[-1]

    first = train("train_noisy", "noisy", "--label-smoothing", "0.3")
    last = train("train_curated", "curated", "--warm-start", first, "--exclude", "logits", "--decay", "0.94")
    settings = read_settings(last)
    assert settings["start"] == "noisy/epoch-0001.keras" and settings["exclude"] == ["logits"]
    assert settings["recipe"]["decay"] == 0.94 and settings["windows"] == COARSE
    where = ["--csv", str(tags / "solution.csv"), "--clips", str(tags / "test")]
    cli.main(["tag", "evaluate", "--run", str(tmp_path / "curated"), *where])
    out = capsys.readouterr().out
    assert "epoch-0001" in out and "lwlrap" in out and "Lwlrap(bell)" in out
    target = tmp_path / "tags.csv"
    cli.main(["tag", "write", last, str(tags / "test"), str(tags / "sample_submission.csv"), str(target)])
    assert len(pd.read_csv(target)) == SIZES["test"] and str(target) in capsys.readouterr().out
    for wrong, said in (
        (lambda: cli.main(["tag", "evaluate", "--run", str(tmp_path), *where]), "no checkpoints to evaluate"),
        (lambda: train("train_noisy", "other", "--features", "bends=3"), "bends: none of sample_rate"),
        (
            lambda: train("train_noisy", "other", "--features", "window=100", "hop=9"),
            "shorter than a sample or",
        ),
        (lambda: cli.main(["train", "--task=dreams"]), "--task dreams: there are words and tagging"),
    ):
        with pytest.raises(SystemExit) as stopped:
            wrong()
        assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_a_terminal_says_what_is_wrong(tags, tmp_path):
    (tmp_path / "bad.csv").write_text("fname,labels\ntest0000.wav,bell\ntest0000.wav,bell\n")
    arguments = ["--task", "tagging", "--train-csv", "bad.csv", "--train-clips", str(tags / "test")]
    program = [sys.executable, "-m", "kws.cli", "train", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env=environment)
    *_, line = done.stderr.splitlines()  # TensorFlow may have said something before
    assert done.returncode == 2 and "line 3: test0000.wav stands in line 2 already" in line
    assert "Traceback" not in done.stderr
