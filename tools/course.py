"""Run the notebooks of the course in order: python tools/course.py [--in-place] [notebook ...]

CORPUS, PROFILE and SEED come from the environment, as in the notebooks. Executed copies go to data/<corpus>/notebooks/;
with --in-place they replace the notebooks. Whatever a notebook prints is shown as it comes.
"""

import argparse
import base64
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)

from kws.infra.corpora import work_dir  # noqa: E402
from kws.infra.files import read_json, write_json  # noqa: E402

# TensorFlow's C++ side prints these to stderr, whatever its log level is; they say nothing about the course
NOTICES = re.compile(
    r"^(WARNING: All log messages before absl.*|To enable the following .*"
    r"|fully_quantize: .*|INFO: Created TensorFlow Lite XNNPACK delegate.*"
    r"|[IE]0000 .*(port|cudart_stub|cuda_platform|cpu_feature_guard)\.cc.*)\n",
    re.MULTILINE,
)


class EchoingClient(NotebookClient):
    """A notebook client that shows the text a cell prints while it runs."""

    def output(self, outs, msg, display_id, cell_index):
        if msg["header"]["msg_type"] == "stream":
            msg["content"]["text"] = NOTICES.sub("", msg["content"]["text"])
            sys.stdout.write(msg["content"]["text"])
            sys.stdout.flush()
        return super().output(outs, msg, display_id, cell_index)


def smaller(png):
    """A picture, PNG as base64, with a palette of 256 colours: a third of the bytes, and it looks the same."""
    picture, file = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return min(png, base64.b64encode(file.getvalue()).decode(), key=len)


def tidy(notebook):
    """Keep of each printed stream what a terminal would show at its end, the last state of a progress bar; shrink pictures."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = (
                    re.sub(r"[^\n]*\r(?=[^\n])", "", NOTICES.sub("", output.text)).strip("\n") + "\n"
                )
            elif "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.get("text", "-").strip()]
        cell.metadata.pop("execution", None)


def run(path, target, failed):
    """Execute one notebook and write it to `target`, or to `failed` where it stops; returns whether it ended well."""
    notebook = nbformat.read(path, as_version=4)
    client = EchoingClient(notebook, timeout=None, kernel_name="python3", coalesce_streams=True)
    client.create_kernel_manager()
    if os.name == "posix":
        client.km.transport = "ipc"  # nothing of a kernel's traffic then passes over the network
    page = failed
    try:
        client.execute(stderr=subprocess.DEVNULL)  # what a kernel prints comes as messages, too
        page = target
    except CellExecutionError as error:
        print(f"\n{path.name} stopped: {error.ename}: {error.evalue}", file=sys.stderr)
        return False
    except DeadKernelError:
        print(f"\n{path.name} stopped: its kernel died, probably for want of memory", file=sys.stderr)
        return False
    except AssertionError as error:
        if client.km is None:  # so nbclient ends when Ctrl-C has made it shut the kernel down
            raise KeyboardInterrupt from error
        raise
    finally:
        tidy(notebook)
        page.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, page)
    return True


def note_time(work, name, seconds):
    """Keep in `work`/seconds.json how long a notebook took when it ran for the first time, with nothing to skip."""
    path = work / "seconds.json"
    noted = {name: seconds} | read_json(path)
    write_json(path, dict(sorted(noted.items())))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(ROOT.glob("[0-6]_*.ipynb")))
    parser.add_argument(
        "--in-place", action="store_true", help="write the outputs into the notebooks themselves"
    )
    args = parser.parse_args()
    try:
        work = work_dir(os.environ.get("CORPUS", "synthetic"), os.environ.get("PROFILE", "sample"))
    except ValueError as error:
        sys.exit(str(error))
    begin = time.time()
    for path in args.notebooks:
        start = time.time()
        print(f"\n=== {path.name}", flush=True)
        executed = work / "notebooks" / path.name
        if not run(path, path if args.in_place else executed, executed):
            sys.exit(f"The page with the whole error: {executed}")
        seconds = round(time.time() - start)
        note_time(work, path.stem, seconds)
        print(f"--- {path.name}: {seconds} s", flush=True)
    where = "place" if args.in_place else work / "notebooks"
    print(f"\n{time.time() - begin:.0f} s in all; the executed notebooks are in {where}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on where it was.")
