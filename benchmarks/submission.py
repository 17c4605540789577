"""A whole submission at the size of the contest: python benchmarks/submission.py CORPUS MODEL [CLIPS ...]

CORPUS is a folder in the contest's layout, MODEL a .keras file. The test clips of the corpus are linked, under names like
the contest's, as often as needed for 10,000, 40,000 and 158,538 files (or the numbers given), and predicted from files to
CSV, each time in a process of its own whose memory is watched. Beside it, in the same run: 500 clips in a loop, one at a
time, by Keras's predict, as one writes it first, and by predict_on_batch, the quicker call. Files come from the page cache,
as they are the same few over and over. Writes benchmarks/results/CORPUS/submission.csv.
"""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

COUNTS = 10_000, 40_000, 158_538
ONE_AT_A_TIME = 500
PIPELINE = "the course's pipeline"


def link_clips(corpus, folder, count):
    """A corpus of `count` links to the test clips of another one."""
    sources = sorted((corpus / "test/audio").glob("*.wav"))
    audio = folder / "test/audio"
    audio.mkdir(parents=True)
    for i in range(count):
        os.link(
            sources[i % len(sources)], audio / f"clip_{hashlib.sha1(str(i).encode()).hexdigest()[:9]}.wav"
        )


def one_run(model, folder, how):
    """Predict, in the pipeline to a CSV that is checked, or some clips one at a time; prints clips, seconds and peak MB."""
    from kws.audio import read_clip
    from kws.inference import load_model, load_predictor, predict_clips, test_clips
    from kws.pi import peak_memory
    from kws.submission import check_submission, write_submission

    predict, paths = load_predictor(model), test_clips(folder)
    if how == "predict":
        predict = functools.partial(load_model(model).predict, verbose=0)
    predict(read_clip(paths[0])[None])
    start = time.perf_counter()
    if how == PIPELINE:
        probabilities, _ = predict_clips(predict, paths, folder / "probs.npy")
        write_submission(paths, probabilities, folder / "submission.csv")
        check_submission(folder / "submission.csv", paths)
    else:
        paths = paths[:ONE_AT_A_TIME]
        for path in paths:
            predict(read_clip(path)[None])
    print(len(paths), time.perf_counter() - start, peak_memory())


def main(corpus, model, *counts):
    from kws.infra.experiments import circumstances

    rows = []
    for count in map(int, counts or COUNTS):
        with tempfile.TemporaryDirectory(dir=corpus.parent) as folder:  # links stay on one disk
            link_clips(corpus, Path(folder), count)
            for how in (PIPELINE, "predict", "predict_on_batch"):
                program = [sys.executable, __file__, "--run", str(model), folder, how]
                done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True)
                clips, seconds, peak = map(float, done.stdout.split()[-3:])
                row = {"how": how, "clips": int(clips), "seconds": seconds}
                rows.append(row | {"clips/s": clips / seconds, "peak MB": peak})
                print(rows[-1])
    table = pd.DataFrame(rows)
    speed = table.groupby("how")["clips/s"].median()
    table["times as fast as it"] = [speed[PIPELINE] / speed[how] for how in table.how]
    print(table)
    target = Path(__file__).parent / "results" / corpus.name / "submission.csv"
    table.assign(model=Path(model).name, **circumstances()).to_csv(target, index=False)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        one_run(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    elif len(sys.argv) > 2:
        main(Path(sys.argv[1]), *sys.argv[2:])
    else:
        sys.exit(__doc__)
