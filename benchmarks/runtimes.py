"""One model in four runtimes: python benchmarks/runtimes.py WORK [--model NAME.keras] [--clips N] [--results FILE]

Keras, LiteRT, LiteRT.js in Chromium, and TensorFlow Lite Micro label the same clips of voices that the model never heard. A row:
how many labels are as in Keras, how many are right, the largest difference of a probability from Keras's, and the milliseconds of
one clip (median, one thread; a browser's clock steps by 0.1 ms). The first three have the front end inside; the kernels of
microcontrollers get its result from Keras, and their time on a computer says nothing of a chip's.
"""

import argparse
import base64
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd

from kws import inference, micro
from kws.audio import read_clips
from kws.infra.experiments import circumstances
from kws.infra.files import CourseError, write_csv
from kws.pi import load_litert, time_runs
from tools import demo
from tools.micro import read_work

IN_BROWSER = """async ([file, labels, texts]) => {
    const { openModel } = await import("./model.js");
    const model = await openModel(new Uint8Array(await (await fetch(file)).arrayBuffer()), labels);
    const rows = [], times = [];
    for (const text of texts) {
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        const clip = Float32Array.from(new Int16Array(bytes.buffer), (v) => v / 32768);
        const start = performance.now();
        rows.push([...await model.predict(clip)]);
        times.push(performance.now() - start);
    }
    return [rows, times];
}"""


def in_browser(work, files, labels, clips, chromium):
    """{file: (probabilities, ms)} of models in Chromium."""
    from playwright.sync_api import sync_playwright

    texts = [base64.b64encode(np.round(clip * 32_768).astype("<i2").tobytes()).decode() for clip in clips]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        demo.build(folder, work)
        for name in files:
            (Path(folder) / name).write_bytes((work / name).read_bytes())
        with demo.server_of(folder, 0) as server, sync_playwright() as playwright:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            for name in files:
                page = browser.new_page()
                page.goto(f"http://localhost:{server.server_port}/")
                page.wait_for_selector("body[data-ready]")
                rows, times = page.evaluate(IN_BROWSER, [name, list(labels), texts])
                found[name] = np.array(rows), float(np.median(times))
                page.close()
            browser.close()
            server.shutdown()
    return found


def compare(work, model="", clips=200, chromium=None):
    """A table of the runtimes, a row each."""
    work = Path(work)
    path, manifest, labels = read_work(work, model)
    front_end, network = micro.split_model(path)
    test = manifest[(manifest.split == "test") & (manifest.speaker != "")]
    test = test.sample(min(clips, len(test)), random_state=0)
    train = manifest[(manifest.split == "train") & (manifest.speaker != "")].sample(100, random_state=0)
    heard, truth = read_clips(test), test.label.cat.codes.to_numpy()
    flatbuffer = micro.to_micro(network, front_end.predict(read_clips(train), verbose=0))
    features = front_end.predict(heard, verbose=0)
    files = [name for name in ("model.tflite", "model_int8.tflite") if (work / name).exists()]

    keras = inference.load_clip_model(path).predict(heard, verbose=0)
    found = {("Keras", path.name): (keras, inference.milliseconds(path))}
    for name in files:
        predict = load_litert(work / name)
        rows = np.stack([predict(clip) for clip in heard])
        found["LiteRT", name] = rows, float(np.median(time_runs(lambda: predict(heard[0]), 200)))  # noqa: B023
    for name, result in in_browser(work, files, labels, heard, chromium).items():
        found["LiteRT.js, Chromium", name] = result
    start = time.perf_counter()
    rows = micro.predict_micro(flatbuffer, features)
    ms = 1e3 * (time.perf_counter() - start) / len(rows)
    found["TensorFlow Lite Micro", "the network in int8"] = rows, ms
    return pd.DataFrame(
        {
            "runtime": runtime,
            "model": name,
            "clips": len(truth),
            "speakers": test.speaker.nunique(),
            "labels as in Keras": int((rows.argmax(1) == keras.argmax(1)).sum()),
            "right": int((rows.argmax(1) == truth).sum()),
            "largest difference": float(np.abs(rows - keras).max()),
            "ms": round(ms, 2),
        }
        | circumstances()
        for (runtime, name), (rows, ms) in found.items()
    )


if __name__ == "__main__":
    import shutil

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    args = parser.parse_args()
    inference.one_thread()
    try:
        table = compare(args.work, args.model, args.clips, args.chromium)
    except CourseError as error:
        sys.exit(str(error))
    print(table.drop(columns=list(circumstances())).to_string(index=False))
    if args.results:
        write_csv(args.results, table)
