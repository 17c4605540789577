"""The command kws: from a corpus to a submission, a microphone, and tag for clips with several labels."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["MPLBACKEND"] = "agg"  # pictures go to files: no window is needed

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from kws import __version__
from kws.infra.files import CourseError, quiet_stderr
from kws.pi import MOST_THREADS
from kws.split import COMMANDS, HELD_OUT, LABELS

app = App(
    name="kws",
    help="Speech commands, from recordings to a model and a submission.",
    version=__version__,
    help_format="plaintext",
    version_flags=["--version"],
)
tag = App(name="tag", help="Clips of any length with several labels each.", help_format="plaintext")
app.command(tag)

WITHOUT_TENSORFLOW = "label", "listen", "record"  # LiteRT is enough for them, and is there at once
Many = Parameter(consume_multiple=True, negative="")


def _whole(_, tokens):
    """A whole number; 1.5 is none."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number") from None


Positive = Annotated[int, Parameter(validator=Number(gte=1), converter=_whole)]
Seed = Annotated[int, Parameter(validator=Number(gte=0, lt=2**32), converter=_whole)]
Runs = Annotated[int, Parameter(validator=Number(gte=1, lte=1_000_000), converter=_whole)]
Threads = Annotated[int, Parameter(validator=Number(gte=1, lte=MOST_THREADS), converter=_whole)]
Corpus = Annotated[str, Parameter(name=["--corpus", "--path-to-data"])]
Profile = Literal["smoke", "sample", "full"]
Words = Annotated[tuple[str, ...], Many]


def _place(corpus, profile, seed, words, held_out):
    """The Place of a corpus; the corpus is fetched and its manifest made where they are missing."""
    from kws.infra.corpora import commands_of, get_corpus, make_manifest, work_dir

    work = work_dir(corpus, profile)
    folder = get_corpus(corpus, profile, seed)
    return make_manifest(folder, work, profile, seed, tuple(words) or commands_of(corpus), tuple(held_out))


def _folder_of(target):
    """Make the folder of a file that is going to be written. CourseError where the file cannot be there."""
    if target.is_dir():
        raise CourseError(f"{target}: is a folder. Name a file")
    target.parent.mkdir(parents=True, exist_ok=True)


@app.command
def corpus(
    corpus: str = "synthetic",
    /,
    *,
    profile: Profile = "sample",
    seed: Seed = 0,
    words: Words = (),
    held_out: Words = HELD_OUT,
) -> None:
    """Fetch or speak a corpus, label it and split it by speaker: manifest.csv.

    Example: kws corpus synthetic --profile smoke

    Parameters
    ----------
    corpus
        synthetic, mini, v0.01, v0.02, pages (the recordings of the committed notebooks), arabic, kaggle, or the path of a corpus;
        esc10: sounds, not words, for extras/tagging
    words
        the commands (default: the contest's ten; of arabic all words); other words are unknown
    held_out
        unknown words to keep out of training
    """
    if corpus == "esc10":
        from kws.infra.corpora import fetch_esc10

        return print(fetch_esc10())
    place = _place(corpus, profile, seed, words, held_out)
    counts = place.manifest.groupby("split", sort=False).size()
    print(f"{place.work / 'manifest.csv'}: " + ", ".join(f"{n:,} {split}" for split, n in counts.items()))


@app.command
def features(
    names: Annotated[tuple[str, ...], Many] = ("pcm", "log_mel", "mfcc"),
    /,
    *,
    corpus: Corpus = "synthetic",
    profile: Profile = "sample",
    seed: Seed = 0,
    words: Words = (),
    held_out: Words = HELD_OUT,
) -> None:
    """Compute features of all clips of a corpus into stores.

    Example: kws features log_mel mfcc --profile smoke

    Parameters
    ----------
    names
        pcm, fft, spectrogram, log_mel, mfcc, mfcc_delta, pcen, tempogram
    corpus
        synthetic, mini, v0.01, v0.02, pages, arabic, kaggle, or the path of a corpus
    words
        the commands (default: the contest's ten; of arabic all words); other words are unknown
    held_out
        unknown words to keep out of training
    """
    from kws.preprocess import FEATURES, store_path, write_store

    if unknown := [name for name in names if name not in FEATURES]:
        raise CourseError(f"{unknown[0]}: there are {', '.join(FEATURES)}")
    place = _place(corpus, profile, seed, words, held_out)
    for name in names:
        print(f"{store_path(place, name)}: {write_store(place, name).shape}")


@app.command
def train(
    *,
    corpus: Corpus = "synthetic",
    words: Words = (),
    held_out: Words = HELD_OUT,
    profile: Profile = "sample",
    random_data: Annotated[bool, Parameter(negative="")] = False,
    model: str = "tc_resnet14",
    engine: Literal["keras", "tensorflow"] = "keras",
    epochs: Positive | None = None,
    patience: Positive | None = None,
    learning_rate: Annotated[float, Parameter(validator=Number(gt=0))] = 3e-3,
    seed: Seed = 0,
    logdir: Path | None = None,
    logrun: str | None = None,
    resume: bool = True,
) -> None:
    """Train a model of the zoo on a whole corpus; manifest and stores are made where they are missing.

    Example: kws train --profile smoke --model ds_cnn_s --epochs 2

    Parameters
    ----------
    corpus
        synthetic, mini, v0.01, v0.02, pages, arabic, kaggle, or the path of a corpus
    words
        the commands (default: the contest's ten; of arabic all words); other words are unknown
    held_out
        unknown words to keep out of training
    random_data
        random numbers in place of clips, to try it
    model
        a name of kws.zoo.ZOO, such as linear, ds_cnn_s, tc_resnet14
    engine
        fit of Keras, or a loop by hand
    epochs
        default: 18, with the profile full 120
    patience
        stop after so many epochs without a better one
    learning_rate
        the highest one, after the warm-up
    logdir
        folder of the TensorBoard logs (default: data/<corpus>/logs)
    logrun
        name of this run in the logs (default: model and settings)
    resume
        go on with an interrupted training of the same settings
    """
    import pandas as pd

    from kws.inference import load_model
    from kws.infra.runs import Options, choose_strategy, worker_number
    from kws.infra.runs import train as train_model
    from kws.preprocess import write_store
    from kws.split import Place, label_list
    from kws.training import EPOCHS, evaluate
    from kws.zoo import ZOO

    options = Options(
        model,
        epochs or EPOCHS[profile],
        seed,
        engine=engine,
        patience=patience,
        learning_rate=learning_rate,
        random=random_data,
        logdir=logdir,
        logrun=logrun,
        resume=resume,
    )
    with choose_strategy().scope():
        if random_data:
            empty = pd.DataFrame({"label": pd.Categorical([], label_list(words or COMMANDS)), "split": []})
            place = Place.of("data/random", empty)
        else:
            place = _place(corpus, profile, seed, words, held_out)
            for feature in ("pcm", ZOO[model].feature):
                write_store(place, feature)
        path = train_model(place, options)
    print(path)
    if not random_data and not worker_number():
        print(evaluate(load_model(path), place, "val")[0].round(3).to_string())


@app.command
def freeze(model: Path, /, into: Path | None = None, *, clips: Path | None = None) -> None:
    """Write a trained model as the contest's frozen graph and for LiteRT: frozen.pb, model.tflite.

    Example: kws freeze data/synthetic/tc_resnet14.keras --clips data/raw/synthetic/test/audio

    Parameters
    ----------
    model
        a .keras file of kws train
    into
        folder for the files (default: that of the model)
    clips
        folder of wav files whose range of values an int8 model takes: model_int8.tflite is written, too
    """
    import shutil

    import numpy as np

    from kws.audio import read_clip, visible_files
    from kws.deploy import freeze as freeze_model
    from kws.deploy import to_litert, write_frozen
    from kws.inference import load_clip_model
    from kws.infra.files import write_atomically

    network, folder = load_clip_model(model), into or model.parent
    frozen, heard = freeze_model(network), []
    if clips:
        paths = visible_files(clips / "test/audio", ".wav") or visible_files(clips, ".wav")
        if not paths:
            raise CourseError(f"{clips}: no wav files there")
        for path in paths[:200]:
            try:
                heard.append(read_clip(path))
            except CourseError as error:
                print(f"left out: {error}", file=sys.stderr)
        if not heard:
            raise CourseError(f"{clips}: none of its wav files can be read")
    try:
        flat = {"model.tflite": to_litert(frozen)}
        if heard:
            flat["model_int8.tflite"] = to_litert(frozen, np.stack(heard))
    except Exception as error:  # whatever the converter says of an operation that it does not know
        raise CourseError(
            f"{model}: cannot be converted to LiteRT ({str(error).partition(chr(10))[0]})"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"frozen.pb": write_frozen(network, folder / "frozen.pb")}
    for name, content in flat.items():
        write_atomically(folder / name, content)
        sizes[name] = len(content)
    labels = model.with_name("labels.txt")
    if labels.exists() and folder != model.parent:
        shutil.copyfile(labels, folder / "labels.txt")
    for name, size in sizes.items():
        print(f"{folder / name}: {size:,} bytes")


@app.command
def predict(model: Path, folder: Path, target: Path, /, *, labels: Words = ()) -> None:
    """Label a folder of wav files with a model (.keras, .pb or .tflite) into a submission: fname,label.

    Example: kws predict data/synthetic/frozen.pb data/raw/synthetic submission.csv

    Parameters
    ----------
    folder
        a corpus with test/audio, or a folder of wav files
    target
        the CSV to write
    labels
        the model's outputs in their order (default: labels.txt beside the model)
    """
    import numpy as np

    from kws.audio import CLIP_SAMPLES, same_name
    from kws.inference import load_predictor, predict_clips, test_clips
    from kws.infra.files import file_digest
    from kws.pi import load_labels
    from kws.submission import check_submission, write_submission

    _folder_of(target)
    paths, predictor = test_clips(folder), load_predictor(model)
    outputs, names_file = (
        predictor(np.zeros((1, CLIP_SAMPLES), "float32")).shape[1],
        model.with_name("labels.txt"),
    )
    if not labels and names_file.exists():
        try:
            labels = load_labels(names_file, outputs)
        except ValueError as error:
            raise CourseError(str(error)) from error
    labels = tuple(map(same_name, labels or LABELS))
    if len(set(labels)) != outputs or len(labels) != outputs:
        raise CourseError(
            f"{model}: has {outputs} outputs, where there are {len(set(labels))} labels: {', '.join(labels)}"
        )
    version = file_digest(model)
    kept = target.with_name(target.name + ".npy")
    probabilities, unreadable = predict_clips(predictor, paths, kept, version, outputs)
    write_submission(paths, probabilities, target, labels)
    check_submission(target, paths, labels)
    for path in unreadable:
        print(f"{path}: could not be read, labelled {labels[0]}", file=sys.stderr)
    print(f"{target}: {len(paths):,} clips")


def _model(path):
    """The model in a .tflite file, or that of the package."""
    from kws.pretrained import load_pretrained, open_model

    return open_model(path) if path else load_pretrained()


@app.command
def label(
    sounds: Annotated[list[Path], Parameter(consume_multiple=True)], /, *, model: Path | None = None
) -> None:
    """Say what is heard in sound files of any format, rate and length: the three most probable labels.

    Example: kws label clip.wav

    Parameters
    ----------
    sounds
        of a longer one the loudest second is taken
    model
        a .tflite file with labels.txt beside it (default: the model that comes with the package)
    """
    from kws.audio import CLIP_SAMPLES, SAMPLE_RATE, as_text
    from kws.pretrained import loudest_second, read_sound, top

    opened, failed = _model(model), []
    for path in sounds:
        try:
            sound = read_sound(path)
        except CourseError as error:
            failed.append(str(error))
            continue
        start, clip = loudest_second(sound)
        where = (
            f" (the loudest second, from {start / SAMPLE_RATE:.1f} s)" if len(sound) > CLIP_SAMPLES else ""
        )
        labels = ", ".join(f"{name} {probability:.2f}" for name, probability in top(opened, clip))
        print(f"{as_text(path)}: {labels}{where}")
    if failed:
        raise CourseError("\n".join(failed))


@app.command
def listen(
    *,
    model: Path | None = None,
    threshold: Annotated[float, Parameter(validator=Number(gte=0, lte=1))] = 0.7,
    device: str = "",
    file: Path | None = None,
    devices: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Print words, with their time, as the microphone hears them. Ctrl-C ends it.

    Example: kws listen --threshold 0.8

    Parameters
    ----------
    model
        a .tflite file with labels.txt beside it (default: the model that comes with the package)
    threshold
        the least probability, averaged over half a second
    device
        a part of the microphone's name (default: the system's)
    file
        a recording to hear in place of the microphone
    devices
        list the microphones
    """
    from kws.microphone import NONE, in_chunks, microphone, microphones
    from kws.microphone import listen as words_in
    from kws.pretrained import read_sound

    if devices:
        names = microphones()
        if not names:
            raise CourseError(NONE)
        print(*names, sep="\n")
        return
    opened = _model(model)
    chunks = in_chunks(read_sound(file)) if file else microphone(device)
    print(f"{', '.join(opened.labels[2:])}: {opened.path}", file=sys.stderr)
    try:
        for seconds, word, probability in words_in(
            opened, chunks, threshold, not file and sys.stderr.isatty()
        ):
            print(f"{seconds:8.1f} s  {word} {probability:.2f}", flush=True)
    except KeyboardInterrupt:
        print(file=sys.stderr)


@app.command
def record(
    words: Annotated[list[str], Parameter(consume_multiple=True)],
    /,
    *,
    speaker: str,
    into: Path = Path("data/raw/mine"),
    takes: Positive = 5,
    device: str = "",
) -> None:
    """Lead a person through recording words, for a corpus of one's own; every speaker calls it once.

    Example: kws record computer lights --speaker anna

    Parameters
    ----------
    words
        the words to say; more than two are better, and some that are no commands, for "unknown"
    speaker
        a name for the voice: it decides the split, and stands in the files' names
    into
        the corpus' folder
    takes
        how often each word is said
    device
        a part of the microphone's name (default: the system's)
    """
    from kws.microphone import check_names, microphone, record_words, skip_old, take

    check_names(words, speaker)
    chunks = microphone(device)
    next(chunks)  # where there is no microphone, that is said before anything else

    def hear(seconds):
        skip_old(chunks)
        return take(chunks, seconds)

    count = record_words(words, speaker, into, takes, hear)
    print(f'{into}: {count} clips more. When all have spoken: make run CORPUS={into} PROFILE=full WORDS="…"')


@app.command
def check(csv: Path, folder: Path, /, *, labels: Words = LABELS) -> None:
    """Is this CSV a submission for the test clips of a corpus?

    Example: kws check data/synthetic/submission.csv data/raw/synthetic

    Parameters
    ----------
    folder
        the corpus, with test/audio
    labels
        default: the contest's twelve
    """
    from kws.inference import test_clips
    from kws.submission import check_submission

    paths = test_clips(folder)
    check_submission(csv, paths, labels)
    print(f"{csv}: right, {len(paths):,} clips")


@app.command(alias="leaderboard")
def board(
    solution: Path,
    csvs: Annotated[list[Path], Parameter(consume_multiple=True)],
    /,
    *,
    public: Annotated[bool, Parameter(negative="")] = False,
    labels: Words = LABELS,
) -> None:
    """Score CSVs against a solution (fname, label, Usage), the best first.

    Example: kws board data/raw/synthetic/solution.csv data/synthetic/submission.csv

    Parameters
    ----------
    public
        show the public part only
    labels
        default: the contest's twelve
    """
    from kws.submission import leaderboard

    table = leaderboard(csvs, solution, labels)
    if not len(table):
        raise CourseError(f"{solution}: none of {len(csvs)} CSVs could be scored")
    if public and table.public.isna().all():
        raise CourseError(f"{solution}: has no public clips. Leave out --public")
    if public:
        table = table[["public"]].sort_values("public", ascending=False)
    print(table.round(4).to_string())


@app.command
def bench(model: Path, /, *, runs: Runs = 200, threads: Threads = 1) -> None:
    """Time a model (.keras, .pb or .tflite) on one clip: milliseconds, on one thread as a rule.

    Example: kws bench data/synthetic/model_int8.tflite --runs 50

    Parameters
    ----------
    threads
        of a .tflite file; the others use one
    """
    import numpy as np

    from kws.audio import CLIP_SAMPLES
    from kws.inference import load_predictor, one_thread
    from kws.pi import load_litert, peak_memory, time_runs

    if model.suffix != ".tflite":
        one_thread()
    predictor = load_predictor(model)
    if model.suffix == ".tflite":
        predictor = load_litert(model, threads)
    clip = np.random.default_rng(0).normal(0, 0.1, (1, CLIP_SAMPLES)).astype("float32")
    times = time_runs(lambda: predictor(clip), runs)
    median, p95 = np.percentile(times, [50, 95])
    print(
        f"{model.name}: median {median:.2f} ms, p95 {p95:.2f} ms, std {times.std():.2f} ms, {runs} runs, "
        f"{threads} thread(s), peak memory {peak_memory():.0f} MB"
    )


@tag.command(name="train")
def tag_train(
    *,
    train_csv: Path,
    train_clips: Path,
    run: Path = Path("data/tags"),
    classes: Path | None = None,
    epochs: Positive = 10,
    seed: Seed = 0,
    batch_size: Positive = 64,
    warm_start: Path | None = None,
    include: Words = ("",),
    exclude: Words = (),
    width: Annotated[float, Parameter(validator=Number(gt=0))] = 1.0,
    pool: Literal["mean", "max"] = "mean",
    dropout: Annotated[float, Parameter(validator=Number(gte=0, lt=1))] = 0.0,
    label_smoothing: Annotated[float, Parameter(validator=Number(gte=0, lt=1))] = 0.0,
    learning_rate: Annotated[float, Parameter(validator=Number(gt=0))] = 1e-3,
    decay: float = 0.0,
    decay_epochs: float = 2.5,
    features: Words = (),
    keep_every: Positive = 1,
    resume: bool = True,
) -> None:
    """Train a tagger on a CSV: fname,labels with commas between labels.

    Example: kws tag train --train-csv train_curated.csv --train-clips train_curated --epochs 2 --width 0.1

    Parameters
    ----------
    train_clips
        folder of its wav files
    run
        folder of the training
    classes
        CSV that names them, a sample submission (default: the training CSV)
    warm_start
        checkpoint to begin with
    include
        texts in the names of layers to take from it
    exclude
        texts in the names of layers not to take
    width
        multiplier of all layers' widths
    dropout
        share to leave out
    label_smoothing
        how far labels move towards 0.5
    decay
        factor of the learning rate, 0: none
    decay_epochs
        epochs between two decays
    features
        settings of the log-mel windows, such as bands=64 window=2.0
    keep_every
        epochs from checkpoint to checkpoint
    resume
        go on with an interrupted training
    """
    from kws.tagging import FrameSettings, class_list, parse_window, read_tags, train_tags

    windows = FrameSettings(**dict(map(parse_window, features))).check()
    names = class_list(classes or train_csv)
    path = train_tags(
        run,
        read_tags(train_csv, train_clips, names, windows),
        names,
        epochs,
        seed,
        windows,
        {"width": width, "pool": pool, "dropout": dropout},
        {"learning_rate": learning_rate, "smoothing": label_smoothing}
        | {"decay": decay, "decay_epochs": decay_epochs},
        batch_size,
        warm_start,
        tuple(include),
        tuple(exclude),
        keep_every,
        resume,
    )
    print(path)


@tag.command(name="evaluate")
def tag_evaluate(*, csv: Path, clips: Path, run: Path = Path("data/tags")) -> None:
    """Lwlrap of every checkpoint of a training, of all labels and of each class.

    Example: kws tag evaluate --run data/tags --csv train_curated.csv --clips train_curated

    Parameters
    ----------
    csv
        fname,labels of the clips to evaluate on
    clips
        folder of its wav files
    run
        folder of the training
    """
    from kws.tagging import checkpoints_of, evaluate_tags, read_settings, read_tags

    settings = read_settings(checkpoints_of(run)[0])
    table = evaluate_tags(run, read_tags(csv, clips, settings["classes"], settings["windows"]))
    print(table[["checkpoint", "clips", "lwlrap"]].round(4).to_string(index=False))
    of_last = table.filter(like="Lwlrap(").iloc[-1].sort_values(ascending=False)
    print(f"\n{of_last.round(4).to_string()}")


@tag.command(name="write")
def tag_write(checkpoint: Path, folder: Path, sample: Path, csv: Path, /) -> None:
    """Scores of several labels for clips of any length, as a CSV.

    Example: kws tag write data/tags/epoch-0002.keras test sample_submission.csv tags.csv

    Parameters
    ----------
    checkpoint
        a .keras file of kws tag train
    folder
        the clips
    sample
        sample_submission.csv: which clips, which columns
    csv
        the CSV to write
    """
    from kws.tagging import write_tags

    _folder_of(csv)
    for path in write_tags(checkpoint, folder, sample, csv)[1]:
        print(f"{path}: could not be read, its scores are zeros", file=sys.stderr)
    print(csv)


def _without_task(tokens: list[str]) -> list[str]:
    """`train --task tagging …` as `tag train …`."""
    for at, token in enumerate(tokens):
        if tokens[0] == "train" and token.partition("=")[0] == "--task":
            task = token.partition("=")[2] or "".join(tokens[at + 1 : at + 2])
            rest = tokens[1:at] + tokens[at + (1 if "=" in token else 2) :]
            if task not in ("words", "tagging"):
                raise CourseError(f"--task {task}: there are words and tagging")
            return ["tag", "train", *rest] if task == "tagging" else ["train", *rest]
    return tokens


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command (default: that of the command line). Bad input: one sentence, exit status 2."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has every letter
    try:
        tokens = _without_task(list(sys.argv[1:] if arguments is None else arguments))
        if tokens and not {"-h", "--help", "--version"} & set(tokens):
            if tokens[0] not in WITHOUT_TENSORFLOW:
                with quiet_stderr():
                    import kws.infra.backend  # noqa: F401
        app(tokens, result_action="return_value", print_error=False, exit_on_error=False)
    except (CourseError, CycloptsError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # kws listen | head: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if not error.filename:
            raise
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on where it was.")


if __name__ == "__main__":
    main()
