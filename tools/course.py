"""Run the notebooks of the course in order: python tools/course.py [--in-place] [notebook ...]

CORPUS, PROFILE and SEED come from the environment, as in the notebooks. Executed copies go to data/<corpus>/notebooks/;
with --in-place they replace the notebooks. One line for each notebook; VERBOSE=1 shows what its cells print as it comes.
"""

import argparse
import base64
import io
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)

from kws.audio import visible_files  # noqa: E402
from kws.infra.corpora import work_dir  # noqa: E402
from kws.infra.files import (  # noqa: E402
    CourseError,
    exclusive_write,
    file_fingerprint,
    fingerprint,
    read_json,
    read_text,
    write_json,
)
from kws.infra.manifest import corpus_files  # noqa: E402

VERBOSE = bool(os.environ.get("VERBOSE"))
SETTINGS = "CORPUS PROFILE SEED WORDS HELD_OUT MODEL EXPERIMENTS PEERS CLUSTER PI_HOST IMGS LISTEN".split()

# what Python and numba compile once, at the first use of TensorFlow and librosa: on the other core, beside notebook 0
WARM_UP = "import numpy, librosa, kws.submission, kws.training; librosa.stft(numpy.zeros(16_000))"

# TensorFlow's C++ side prints these to stderr, whatever its log level is; they say nothing about the course
NOTICES = re.compile(
    r"^(WARNING: All log messages before absl.*|To enable the following .*"
    r"|fully_quantize: .*|INFO: Created TensorFlow Lite XNNPACK delegate.*"
    r"|[WI]0000 .*\.cc:.*|E0000 .*(port|cudart_stub|cuda_platform|cpu_feature_guard)\.cc.*)\n",
    re.MULTILINE,
)


class WatchedClient(NotebookClient):
    """A notebook client that counts the cells that are done, and with VERBOSE shows what they print."""

    bar = None

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        executed = await super().async_execute_cell(cell, cell_index, *args, **kwargs)
        self.bar.update(cell_index + 1 - self.bar.n)
        return executed

    def output(self, outs, msg, display_id, cell_index):
        if msg["header"]["msg_type"] == "stream":
            msg["content"]["text"] = NOTICES.sub("", msg["content"]["text"])
            if VERBOSE:
                sys.stdout.write(msg["content"]["text"])
                sys.stdout.flush()
        return super().output(outs, msg, display_id, cell_index)


def smaller(png):
    """A picture, PNG as base64, with a palette of 256 colours: a third of the bytes, and it looks the same."""
    picture, file = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return min(png, base64.b64encode(file.getvalue()).decode(), key=len)


def tidy(notebook, publish):
    """Keep of each printed stream what a terminal would show at its end, the last state of a progress bar.

    To `publish` a page, pictures are made smaller, and players of recordings are taken out: no voice of a person is given away.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = (
                    re.sub(r"[^\n]*\r(?=[^\n])", "", NOTICES.sub("", output.text)).strip("\n") + "\n"
                )
            elif publish and output.get("metadata", {}).get("sound") == "recording":
                output.data.pop("text/html", None)
            elif publish and "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.get("text", "-").strip()]
        cell.metadata.pop("execution", None)


def own_sockets(manager, folder):
    """Let a kernel talk through sockets in a folder of its own, not over the network; tcp where there are no sockets."""
    if os.name != "posix":
        return
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(f"{folder}/probe")
    except OSError:
        return
    manager.transport, manager.ip = "ipc", f"{folder}/kernel"


def run(path, target, failed):
    """Execute one notebook and write it to `target`, or to `failed` where it stops; returns whether it ended well."""
    notebook = nbformat.read(path, as_version=4)
    client = WatchedClient(
        notebook, timeout=None, startup_timeout=120, kernel_name="python3", coalesce_streams=True
    )
    client.create_kernel_manager()
    page, reason = failed, ""
    form = "{desc:24} {bar:20} {n_fmt:>3} of {total_fmt} cells  {elapsed}"
    quiet = VERBOSE or not sys.stdout.isatty()
    with (
        tempfile.TemporaryDirectory(prefix="kws-", ignore_cleanup_errors=True) as folder,
        tqdm(
            total=len(notebook.cells), desc=path.stem, bar_format=form, file=sys.stdout, disable=quiet
        ) as bar,
    ):
        own_sockets(client.km, folder)
        client.bar = bar
        try:
            client.execute(stderr=subprocess.DEVNULL)  # what a kernel prints comes as messages, too
            page = target
        except CellExecutionError as error:
            reason = f"{error.ename}: {error.evalue}"
        except DeadKernelError:
            reason = "its kernel died, probably for want of memory"
        except (RuntimeError, TimeoutError) as error:
            reason = f"its kernel did not start ({error})"
        except AssertionError as error:
            if client.km is None:  # so nbclient ends when Ctrl-C has made it shut the kernel down
                raise KeyboardInterrupt from error
            raise
        finally:
            tidy(notebook, publish=path == target)
            page.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, page)
    if reason:
        print(f"\n{path.name} stopped: {reason}", file=sys.stderr)
    return not reason


def key_of(path, work, before):
    """What the page of a notebook depends on: its cells, the package, settings, corpus, and what the page `before` depends on."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    package = [
        file.read_bytes() for file in sorted((ROOT / "kws").rglob("*.py")) if file.name != "_modidx.py"
    ]
    settings = {name: os.environ.get(name) for name in SETTINGS}
    corpus = read_json(work / "manifest.json").get("corpus")
    clips = []
    if corpus and Path(corpus).is_dir():
        clips = [*corpus_files(corpus), *visible_files(Path(corpus) / "test/audio")]
    return fingerprint(cells, package, settings, *map(file_fingerprint, clips), before)


def files_in(work):
    """The files that notebooks have made, with their state."""
    return {
        str(path): file_fingerprint(path)
        for path in work.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def note_time(work, name, seconds):
    """Keep in `work`/seconds.json how long a notebook took when it ran for the first time, with nothing to skip."""
    path = work / "seconds.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(sorted(({name: seconds} | read_json(path)).items())))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(ROOT.glob("[0-6]_*.ipynb")))
    parser.add_argument(
        "--in-place", action="store_true", help="write the outputs into the notebooks themselves"
    )
    args = parser.parse_args()
    begin, key = time.time(), ""
    try:
        work = work_dir(os.environ.get("CORPUS", "synthetic"), os.environ.get("PROFILE", "sample"))
        if not (work / "seconds.json").exists():
            subprocess.Popen(
                [sys.executable, "-c", WARM_UP], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        for path in args.notebooks:
            page = work / "notebooks" / "-".join(path.resolve().relative_to(ROOT).parts)
            with exclusive_write(page):
                found = read_json(page.with_suffix(".json"))
                if (
                    not args.in_place
                    and found.get("key") == key_of(path, work, key)
                    and all(Path(file).exists() for file in found["files"])
                ):
                    print(f"{path.stem:24} found", flush=True)
                else:
                    run_and_note(path, work, page, args.in_place, key)
                key = key_of(path, work, key)
    except CourseError as error:
        sys.exit(str(error))
    where = "place" if args.in_place else work / "notebooks"
    print(
        f"\n{time.time() - begin:.0f} s in all; the executed notebooks, with all that they print, are in {where}"
    )
    summary = work / "summary.txt"
    if args.notebooks[-1].stem == "6_submission" and summary.exists():
        print(f"\n{read_text(summary)}", end="")


def run_and_note(path, work, page, in_place, key):
    """Run a notebook, and note beside its page what it depends on and what it has made."""
    start, before, note = time.time(), files_in(work), page.with_suffix(".json")
    note.unlink(missing_ok=True)
    if not run(path, path if in_place else page, page):
        sys.exit(f"The page with the whole error: {page}")
    seconds = round(time.time() - start)
    note_time(work, path.stem, seconds)
    if VERBOSE or not sys.stdout.isatty():
        print(f"{path.stem:24} {seconds:4} s", flush=True)
    if not in_place:
        made = [file for file, state in files_in(work).items() if before.get(file) != state]
        write_json(note, {"key": key_of(path, work, key), "files": made})


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on where it was.")
