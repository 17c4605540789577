"""Do to a long step what happens to it: python kill_step.py STEP HOW TIMES SEED WORK CORPUS FOLDER

HOW is `kill`: it is killed with SIGKILL at random times, and begun again, until it has been killed TIMES times; or `twice`: two
runs at once, TIMES times. Each time what is left in the end must be what an undisturbed run leaves. A run is a fork of this
process, which may have imported TensorFlow but has not used it. Prints how often it was done.
"""

import hashlib
import http.server
import io
import os
import random
import signal
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
from kill_store import ends, tree

from kws import split


def synthesis(folder, work, corpus):
    split.SYNTHETIC_SIZES["smoke"] = (45, 1, 1, 10)
    split.SPOKEN_WORDS = split.SPOKEN_WORDS[:4]
    split.make_synthetic(folder / "corpus", "smoke")


class Slow(http.server.BaseHTTPRequestHandler):
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


def serve(corpus):
    """Offer a corpus as the official archive v0.02 on this machine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for path in sorted((corpus / "train/audio").glob("[a-h]*/*.wav")):
            tar.add(path, f"./{path.parent.name}/{path.name}")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.content = buffer.getvalue()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, sha256 = (
        f"http://127.0.0.1:{server.server_port}/a.tar.gz",
        hashlib.sha256(server.content).hexdigest(),
    )
    split.ARCHIVES["v0.02"] = split.Archive(url, sha256, len(server.content), 300)


def download(folder, work, corpus):
    split.fetch_archive("v0.02", folder)


def manifest(folder, work, corpus):
    split.make_manifest(corpus, folder / "work", "sample")


def laying_out(folder, work, corpus):
    split.export_folders(split.read_manifest(work), folder / "main")


def sweep(folder, work, corpus):
    from kws import models

    def make(number):
        time.sleep(0.05)
        return {"accuracy": number / 10}

    folder.mkdir(exist_ok=True)
    models.circumstances = lambda: {"date": "today"}
    for number in range(10):
        models.cached_row(folder / "experiments.csv", {"model": f"m{number}"}, lambda n=number: make(n))


def prediction(folder, work, corpus):
    from kws import submission

    def predict(clips):
        time.sleep(0.02)
        return np.abs(clips[:, :12]) + 0.1

    folder.mkdir(exist_ok=True)
    paths = submission.test_clips(corpus)
    submission.predict_clips(predict, paths, folder / "probs.npy", "v1", batch_size=4, part=8)


def train(folder, work, corpus):
    from kws import training

    folder.mkdir(exist_ok=True)
    for store in work.glob("*.bc"):
        if not (folder / store.name).exists():
            (folder / store.name).symlink_to(store)
    training.train(folder, corpus, split.read_manifest(work), "linear", 8, engine="tensorflow")


STEPS = {
    "synthesis": synthesis,
    "download": download,
    "manifest": manifest,
    "laying out": laying_out,
    "sweep": sweep,
    "prediction": prediction,
    "training": train,
}


def result(step, folder):
    """What a step has left: files and hashes of their contents; of a training the weights and scores."""
    if step != "training":
        # a manifest's note has the times of this corpus, which a copy would not have
        return {name: content for name, content in tree(folder).items()}
    import keras
    import pandas as pd

    files = sorted(
        p.name for p in folder.iterdir() if not p.is_symlink() and p.name not in ("logs", "checkpoints")
    )
    weights = keras.models.load_model(folder / "linear.keras", compile=False).get_weights()
    history = pd.read_csv(folder / "linear.csv").drop(columns="seconds").to_csv()
    return (
        files,
        [hashlib.md5(w.tobytes()).hexdigest() for w in weights],
        history,
        [*folder.glob("checkpoints/*")],
    )


def fork(step, *arguments):
    """Start a step in a child; returns its process id."""
    if child := os.fork():
        return child
    try:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        STEPS[step](*arguments)
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(1)


def apart(function, *arguments):
    """Call a function in a child and return the repr of what it returns: this process must not use TensorFlow."""
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        with open(read) as file:
            text = file.read()
        assert ends(child) == 0
        return text
    try:
        with open(write, "w") as file:
            file.write(repr(function(*arguments)))
        os._exit(0)
    finally:
        os._exit(1)


def main(step, how, times, seed, work, corpus, folder):
    times, numbers, folder = int(times), random.Random(int(seed)), Path(folder)
    work, corpus = Path(work), Path(corpus)
    if step == "download":
        serve(corpus)
    if step in ("sweep", "prediction", "training"):
        import kws.submission
        import kws.training  # noqa: F401  so that not each child has to
    begin = time.perf_counter()
    assert ends(fork(step, folder / "alone", work, corpus)) == 0
    seconds, expected = time.perf_counter() - begin, apart(result, step, folder / "alone")
    done = tried = 0
    while done < times:
        target, tried = folder / f"disturbed{tried}", tried + 1
        assert tried <= 20 * times, "too quick to be killed"
        if how == "twice":
            children = [fork(step, target, work, corpus) for _ in range(2)]
            assert [ends(child) for child in children] == [0, 0]
            done += 1
        for _ in range(3 if how == "kill" else 0):
            child = fork(step, target, work, corpus)
            time.sleep(numbers.uniform(0, 0.9 * seconds))
            os.kill(child, signal.SIGKILL)
            done += ends(child) == signal.SIGKILL
        assert ends(fork(step, target, work, corpus)) == 0
        assert apart(result, step, target) == expected.replace("/alone", f"/{target.name}"), (
            "not what an undisturbed run leaves"
        )
    print(done)


if __name__ == "__main__":
    main(*sys.argv[1:5], *sys.argv[5:])
