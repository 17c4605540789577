"""The page that listens: python tools/demo.py [--folder FOLDER] [--no-serve] [--no-browser] [--port N]

Lays demo/, the models and LiteRT.js together in data/demo/ or FOLDER, and serves it on this machine. The folder can be put on
any web host as it is. CORPUS and PROFILE choose whose models are in it, beside those that come with the package.
"""

import argparse
import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import webbrowser
from pathlib import Path

import numpy as np

from kws.audio import CLIP_SAMPLES, write_wav
from kws.infra.corpora import work_dir
from kws.infra.files import CourseError, write_atomically, write_json
from kws.infra.synthetic import load_espeak, make_voices, utter
from kws.pretrained import load_pretrained, open_model, shipped_models, top

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "demo"
CDN = "https://cdn.jsdelivr.net/npm"
EXAMPLES = 6


def fetch_runtime(folder, cdn=CDN, npm="npm"):
    """Files of LiteRT.js, of the version and with the SHA-256 of demo/litert.json, in a folder: by npm, or from a CDN."""
    wanted = json.loads((PAGE / "litert.json").read_text())
    todo = {name: sha for name, sha in wanted["files"].items() if _digest(folder / name) != sha}
    if todo:
        print(f"fetching LiteRT.js {wanted['version']}, once: up to 19 MB …", file=sys.stderr, flush=True)
    for package in sorted({name.split("/")[0] for name in todo}):
        names = [name for name in todo if name.startswith(f"{package}/")]
        content = _from_npm(package, wanted["version"], npm) if shutil.which(npm) else {}
        for name in names:
            path = name.removeprefix(f"{package}/")
            data = content.get(path) or _from_cdn(f"{cdn}/@litertjs/{package}@{wanted['version']}/{path}")
            if hashlib.sha256(data).hexdigest() != todo[name]:
                raise CourseError(
                    f"{name} of LiteRT.js {wanted['version']} is not the file that the course expects"
                )
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, data)


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _from_npm(package, version, npm):
    """{path: bytes} of a package of @litertjs; empty where npm does not get it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", f"@litertjs/{package}@{version}", "--pack-destination", folder]
        archives = (
            []
            if subprocess.run(command, capture_output=True).returncode
            else list(Path(folder).glob("*.tgz"))
        )
        if not archives:
            return {}
        with tarfile.open(archives[0]) as archive:
            files = [member for member in archive if member.isfile()]
            return {
                member.name.removeprefix("package/"): archive.extractfile(member).read() for member in files
            }


def _from_cdn(url):
    import requests

    try:
        answer = requests.get(url, timeout=60)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise CourseError(
            f"{url}: cannot be fetched ({type(error).__name__}). The page needs it once; then it is kept in data/litert"
        ) from error
    return answer.content


def models_of(work):
    """[(title, path)] of the models in a work folder and in the package, the one to begin with first.

    A model that learnt from machine voices does not begin: a person speaks to the page.
    """
    work = Path(work)
    own = [
        (f"{name} of {work.name}", work / name)
        for name in ("model_int8.tflite", "model.tflite")
        if (work / name).exists()
    ]
    shipped = []
    for name in shipped_models():
        published = name.replace("tc_resnet", "TC-ResNet").replace("matchboxnet", "MatchboxNet")
        published = published.replace("_listener", ", trained beside running speech")
        shipped.append((f"{published} (comes with the course)", load_pretrained(name).path))
    return shipped + own if work.name.startswith("synthetic") else own + shipped


def right_of(path):
    """How often a model of the package is right, in words, from the card beside it; empty for a model without one."""
    card = path.with_name("card.json")
    if not card.exists():
        return ""
    voices = json.loads(card.read_text(encoding="utf-8"))["held-out voices"]
    return f"right on {100 * voices['accuracy']:.0f} % of {voices['n']:,.0f} clips by voices new to it"


def make_examples(folder, model, voices=20, seed=0):
    """Words of a model, spoken by espeak-ng: each by the first voice that it understands, else the first; [{file, word}]."""
    say, found = load_espeak(), []
    for number, word in enumerate(model.labels[2 : 2 + EXAMPLES]):
        clips = []
        for voice in make_voices(voices, seed):
            clip = utter(say, voice, word, np.random.default_rng(number))
            clip = np.pad(clip, (0, CLIP_SAMPLES - len(clip)))
            label, probability = top(model, clip)[0]
            clips.append((label == word and probability >= 0.8, clip))
            if clips[-1][0]:
                break
        clip = next((clip for right, clip in clips if right), clips[0][1])
        file = f"examples/{number}.wav"
        write_wav(folder / file, clip)
        found.append({"file": file, "word": word})
    return found


def build(folder, work, runtime=ROOT / "data/litert"):
    """Lay the page together in a folder; returns it."""
    folder = Path(folder)
    fetch_runtime(Path(runtime))
    shutil.copytree(PAGE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md"))
    shutil.copytree(runtime, folder / "litert", dirs_exist_ok=True)
    entries, models = [], models_of(work)
    (folder / "models").mkdir(exist_ok=True)
    for number, (title, path) in enumerate(models):
        model = open_model(path)
        file = f"models/{number}.tflite"
        shutil.copyfile(path, folder / file)
        entries.append(
            {"name": title, "file": file, "labels": list(model.labels), "right": right_of(Path(path))}
        )
    try:
        examples = make_examples(folder, open_model(models[0][1]))
    except CourseError as error:
        print(f"no example clips: {error}", file=sys.stderr)
        examples = []
    write_json(folder / "contents.json", {"models": entries, "examples": examples})
    return folder


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files with the types that browsers insist on, whatever the system's registry says; nothing is kept from last time."""

    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".json": "application/json",
        ".svg": "image/svg+xml",
    }

    def end_headers(self):
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *args):
        pass


def server_of(folder, port=8000):
    """A server of a folder on this machine only; at another port where this one is taken."""
    handler = functools.partial(Handler, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError:
        return http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)


def main(arguments=None):
    """Build, say where it is, and serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "data/demo")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--no-serve", action="store_true")
    parser.add_argument("--no-browser", action="store_true")
    args = parser.parse_args(arguments)
    corpus, profile = os.environ.get("CORPUS", "synthetic"), os.environ.get("PROFILE", "sample")
    work = work_dir(corpus, profile)
    if not (work / "model_int8.tflite").exists() and corpus != "synthetic":
        print(
            f"{work} has no model yet (make run CORPUS={corpus}): the page begins with that of the package",
            file=sys.stderr,
        )
    folder = build(args.folder, work)
    print(folder)
    if args.no_serve:
        return
    with server_of(folder, args.port) as server:
        url = f"http://localhost:{server.server_port}/"
        print(f"{url}   Ctrl-C ends it", flush=True)
        if not args.no_browser:
            webbrowser.open(url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
