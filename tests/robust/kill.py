"""Do to the long steps of the course what happens to them: python kill.py STEP WAY TIMES WORK CORPUS FOLDER

WAY is
    random: killed with SIGKILL at a random moment, and begun again, until it was killed TIMES times
    operations: killed with SIGKILL before one of its changes of files; TIMES of them, or all (0), each in a run of its own
    twice: two runs at once, TIMES times

After each kill the files that are there must be whole, and what was there before must be there; in the end there must be what
an undisturbed run leaves. A step that ended before its kill counts as not killed: it is tried again in a fresh folder, at an
earlier moment. WORK holds the manifest and stores of CORPUS, FOLDER is empty. A run is a fork of this process, which may have
imported TensorFlow but has not used it. Prints how often it was done.
"""

import functools
import hashlib
import http.server
import io
import os
import random
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pandas as pd

from kws.infra import experiments
from kws.infra.corpora import Archive, fetch_archive, make_manifest
from kws.infra.manifest import export_folders
from kws.infra.synthetic import SPOKEN_WORDS, make_synthetic, make_tags
from kws.split import Place, read_manifest


def tree(folder):
    """All files below a folder, that of a link too, with the hashes of their contents: {path: hash}."""
    return {
        p.relative_to(folder).as_posix(): hashlib.md5(p.read_bytes()).hexdigest()
        for p in Path(folder).rglob("*")
        if p.is_file()
    }


# the steps: functions of a folder to work in and the Place of the synthetic corpus


def synthesis(folder, place):
    sizes = {"smoke": (45, 1, 1, 10)}
    make_synthetic(folder / "corpus", "smoke", sizes=sizes, words=SPOKEN_WORDS[:4])


class SlowServer(http.server.BaseHTTPRequestHandler):
    """Sends an archive in pieces, with a pause after each."""

    def do_GET(self):
        content = self.server.content
        start = int(self.headers["Range"][6:-1])
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        try:
            for at in range(start, len(content), 2**17):
                self.wfile.write(content[at : at + 2**17])
                time.sleep(0.02)
        except OSError:
            pass  # whoever asked was killed

    def log_message(self, *args):
        pass


@functools.cache
def offered(corpus):
    """A corpus as an Archive, which this process serves until it ends."""
    buffer, paths = io.BytesIO(), sorted((corpus / "train/audio").glob("[a-h]*/*.wav"))
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for path in paths:
            tar.add(path, f"./{path.parent.name}/{path.name}")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowServer)
    server.content = buffer.getvalue()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256(server.content).hexdigest()
    return Archive(f"http://127.0.0.1:{server.server_port}/a.tar.gz", digest, len(server.content), len(paths))


def download(folder, place):
    fetch_archive("small", folder, {"small": offered(place.folder)})


def manifest(folder, place):
    make_manifest(place.folder, folder / "work", "sample")


def export(folder, place):
    export_folders(place.manifest, folder / "main")


def descriptions(folder, place):
    from kws.visualize import describe_corpus

    describe_corpus(place.manifest[:250], folder)


def some_rows(folder, place, count=16):
    """The Place of a few rows of each split, in another working folder."""
    rows = place.manifest.groupby("split").head(count).reset_index(drop=True)
    return Place.of(folder, rows, place.folder)


def features(feature, library, folder, place):
    from kws.preprocess import write_store

    write_store(some_rows(folder, place), feature, shard=8, library=library)


def older_store(feature, library, folder, place):
    """A store of the same feature for another manifest."""
    from kws.preprocess import write_store

    write_store(some_rows(folder, place, 3), feature, shard=8, library=library)


def stores_are_whole(folder, before, after):
    """There is the store of before, under its name or put aside, or the new one."""
    names = {name.partition("/")[0] for name in after}
    for name in names:
        inside = re.compile(rf"{re.escape(name)}/")
        old, new = ({n: h for n, h in files.items() if inside.match(n)} for files in (before, after))
        left = [
            {f"{name}/{n}": h for n, h in tree(folder / f"{name}{way}").items()}
            for way in ("", ".old", ".part")
        ]
        assert old in left[:2] or new in left, "the old store is gone, and no new one is whole"


def sweep(folder, place):
    with mock.patch.object(experiments, "circumstances", lambda: {"date": "today"}):
        for number in range(10):

            def make(number=number):
                time.sleep(0.05)
                return {"accuracy": number / 10}

            experiments.cached_row(folder / "experiments.csv", {"model": f"m{number}"}, make)


def results(folder, place):
    for number in range(10):
        experiments.record(folder, **{f"m{number}": number})


def prediction(folder, place):
    from kws import inference

    def predict(clips):
        time.sleep(0.02)
        return np.abs(clips[:, :12]) + 0.1

    paths = inference.test_clips(place.folder)
    inference.predict_clips(predict, paths, folder / "probs.npy", "v1", batch_size=4, part=8)


def linked_stores(folder, place):
    for store in place.work.glob("*.bc"):
        (folder / store.name).symlink_to(store.resolve())


def training(folder, place):
    from kws.infra.runs import Options, train

    train(place._replace(work=folder), Options("linear", 6, engine="tensorflow"))


def trained(folder):
    """What a training leaves, of its model the weights."""
    import keras

    files = sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if not p.is_symlink() and p.is_file() and "logs" not in p.parts and "state" not in p.parts
    )
    weights = {
        path.name: [
            hashlib.md5(w.tobytes()).hexdigest()
            for w in keras.models.load_model(path, compile=False).get_weights()
        ]
        for path in sorted(folder.rglob("*.keras"))
    }
    histories = [
        pd.read_csv(p).drop(columns="seconds").to_csv() for p in folder.rglob("*.csv") if not p.is_symlink()
    ]
    return files, weights, histories


@functools.cache
def sounds():
    """A folder, with sounds of several labels in it, there until this process ends."""
    kept = tempfile.TemporaryDirectory(prefix="kws-sounds-", ignore_cleanup_errors=True)
    make_tags(Path(kept.name) / "sounds", {"train_curated": 32, "test": 2})
    return kept


def tagging(folder, place):
    from kws.tagging import FrameSettings, class_list, read_tags, train_tags

    corpus, windows = Path(sounds().name) / "sounds", FrameSettings(bands=32, window=0.5)
    names = class_list(corpus / "train_curated.csv")
    clips = read_tags(corpus / "train_curated.csv", corpus / "train_curated", names, windows)
    train_tags(folder / "run", clips, names, 3, windows=windows, model={"width": 0.1}, every=3)


def never_half(pattern=".*"):
    """Check of a folder: each file that the pattern matches is as before or as in the end, and none of before is missing."""

    def check(folder, before, after):
        left = tree(folder)
        for name, content in left.items():
            if re.fullmatch(pattern, name) and not re.search(r"\.(part|trash)(/|$)", name):
                assert content in (before.get(name), after.get(name)), f"{name} is not whole"
        assert before.keys() <= left.keys(), "what was there is gone"

    return check


class Step(NamedTuple):
    """What is run; what it finds there; what is compared; what must be true of (folder, tree of before, tree in the end) at any
    moment; the modules that all runs need."""

    run: Callable
    start: Callable = lambda folder, place: None
    result: Callable = tree
    check: Callable = never_half()
    imports: tuple = ()


def features_step(feature, library=None):
    run, start = (functools.partial(f, feature, library) for f in (features, older_store))
    return Step(run, start, check=stores_are_whole, imports=("kws.preprocess",))


STEPS = {
    "synthesis": Step(synthesis),
    "download": Step(download),
    "manifest": Step(
        manifest, check=never_half(r"work/(?!manifest\.json).*")
    ),  # a note begins with the corpus
    "export": Step(export),
    "descriptions": Step(descriptions, imports=("kws.visualize",)),
    "features": features_step("pcm"),
    "features, bcolz": features_step("pcm", "bcolz"),
    "features, blosc2": features_step("pcm", "blosc2"),
    "features, log_mel, bcolz": features_step("log_mel", "bcolz"),
    "features, log_mel, blosc2": features_step("log_mel", "blosc2"),
    "sweep": Step(sweep, check=lambda *args: None),  # tables grow, row by row
    "results": Step(results, check=lambda *args: None),
    "prediction": Step(prediction, check=never_half(r"probs\.npy"), imports=("kws.inference",)),
    "training": Step(training, linked_stores, trained, lambda *args: None, ("kws.infra.runs",)),
    "tagging": Step(tagging, result=trained, check=lambda *args: None, imports=("kws.tagging",)),
}


# what is done to them


def count_operations(folder, act):
    """Call `act(number)` before each operation of this process that changes files, of those it writes to in `folder`."""
    number, writing = 0, os.O_WRONLY | os.O_RDWR

    def hook(event, args):
        nonlocal number
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink")
        if changes or (event == "open" and str(args[0]).startswith(str(folder)) and args[2] & writing):
            number += 1
            act(number)

    sys.addaudithook(hook)


def fork(function, *arguments):
    """Call a function in a child; returns its process id."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    try:
        errors = os.dup(2)
        sys.stdout = sys.stderr = open(os.devnull, "w")
        function(*arguments)
        os._exit(0)
    except BaseException:
        os.write(errors, traceback.format_exc().encode())
    finally:
        os._exit(1)


def ends(child):
    """The signal that ended a child, or 0; an error where it failed by itself."""
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a step failed"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def apart(function, *arguments):
    """Call a function in a child and return the repr of what it returns: this process must not use TensorFlow."""
    read, write = os.pipe()

    def tell():
        with open(write, "w") as file:
            file.write(repr(function(*arguments)))

    child = fork(tell)
    os.close(write)
    with open(read) as file:
        text = file.read()
    assert ends(child) == 0
    return text


class Disturbed:
    """A step that is run again and again, each time in a fresh folder."""

    def __init__(self, step, place, folder):
        self.step, self.place, self.folder, self.number = step, place, folder, 0
        self.numbers = random.Random(0)
        self.start = folder / "start"
        self.start.mkdir()
        assert not ends(fork(step.start, self.start, place))
        self.before = tree(self.start)
        alone, begin = self.fresh(), time.perf_counter()
        assert not ends(self.run(alone))
        self.seconds, self.after = time.perf_counter() - begin, tree(alone)
        self.expected = apart(step.result, alone)

    def fresh(self):
        """A folder as the step finds it; all others but the first are gone."""
        self.number += 1
        shutil.rmtree(self.folder / str(self.number - 1), ignore_errors=True)
        return shutil.copytree(self.start, self.folder / str(self.number), symlinks=True)

    def run(self, target, act=None):
        """Start the step in a child, which calls `act` before each change of files; returns its process id."""

        def run():
            if act:
                count_operations(target, act)
            self.step.run(target, self.place)

        return fork(run)

    def finish(self, target):
        """Let the step end in a folder, and compare."""
        assert not ends(self.run(target))
        assert apart(self.step.result, target) == self.expected, "not what an undisturbed run leaves"

    def killed(self, child, target):
        """Whether a child was killed; what it has left is checked then."""
        if not ends(child):
            return False
        self.step.check(target, self.before, self.after)
        return True

    def at_random_moments(self, times):
        done, latest = 0, self.seconds
        while done < times:
            target = self.fresh()
            for _ in range(min(3, times - done)):  # the next ones go on from what is left
                child, moment = self.run(target), self.numbers.uniform(0, latest)
                time.sleep(moment)
                os.kill(child, signal.SIGKILL)
                if not self.killed(child, target):
                    latest = moment
                    break
                done += 1
            self.finish(target)
        return done

    def at_operations(self, times):
        target, log = self.fresh(), os.open(self.folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        assert not ends(self.run(target, lambda number: os.write(log, b".")))
        operations, done = os.fstat(log).st_size, 0
        for chosen in self.numbers.sample(range(1, operations + 1), min(times or operations, operations)):

            def act(number, chosen=chosen):
                if number == chosen:
                    os.kill(os.getpid(), signal.SIGKILL)

            target = self.fresh()
            done += self.killed(self.run(target, act), target)
            self.finish(target)
        return done

    def twice_at_once(self, times):
        for _ in range(times):
            target = self.fresh()
            assert [ends(child) for child in [self.run(target), self.run(target)]] == [0, 0]
            self.finish(target)
        return times


WAYS = {
    "random": Disturbed.at_random_moments,
    "operations": Disturbed.at_operations,
    "twice": Disturbed.twice_at_once,
}


def main(name, way, times, work, corpus, folder):
    step, place = STEPS[name], Place.of(work, read_manifest(work), corpus)
    for module in step.imports:  # so that not each child has to
        __import__(module)
    if name == "download":
        offered(place.folder)
    if name == "tagging":
        sounds()
    print(WAYS[way](Disturbed(step, place, Path(folder)), int(times)))


if __name__ == "__main__":
    main(*sys.argv[1:])
