"""A whole submission at the size of the contest: python benchmarks/submission.py CORPUS MODEL [CLIPS ...]

CORPUS is a folder in the contest's layout, MODEL a .keras file. The test clips of the corpus are linked, under names like
the contest's, as often as needed for 10,000, 40,000 and 158,538 files (or the numbers given), and predicted from files to
CSV, each time in a process of its own whose memory is watched. Beside it, in the same run: 500 clips one at a time. Files
come from the page cache, as they are the same few over and over. Writes benchmarks/results/CORPUS/submission.csv.
"""

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


def link_clips(corpus, folder, count):
    """A corpus of `count` links to the test clips of another one."""
    sources = sorted((corpus / "test/audio").glob("*.wav"))
    audio = folder / "test/audio"
    audio.mkdir(parents=True)
    for i in range(count):
        os.link(
            sources[i % len(sources)], audio / f"clip_{hashlib.sha1(str(i).encode()).hexdigest()[:9]}.wav"
        )


def one_run(model, folder, one_at_a_time):
    """Predict and write; prints seconds and peak MB."""
    from kws.pi import peak_memory
    from kws.split import read_clip
    from kws.submission import check_submission, load_predictor, predict_clips, test_clips, write_submission

    predict, paths = load_predictor(model), test_clips(folder)
    predict(read_clip(paths[0])[None])
    start = time.perf_counter()
    if one_at_a_time:
        for path in paths[:ONE_AT_A_TIME]:
            predict(read_clip(path)[None])
    else:
        probabilities, _ = predict_clips(predict, paths, folder / "probs.npy")
        write_submission(paths, probabilities, folder / "submission.csv")
        check_submission(folder / "submission.csv", paths)
    seconds = time.perf_counter() - start
    print(seconds, peak_memory())


def main(corpus, model, *counts):
    from kws.models import circumstances

    rows = []
    for count in map(int, counts or COUNTS):
        with tempfile.TemporaryDirectory(dir=corpus.parent) as folder:  # links stay on one disk
            link_clips(corpus, Path(folder), count)
            for alone in (False, True):
                program = [sys.executable, __file__, "--run", str(model), folder, str(int(alone))]
                done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True)
                seconds, peak = map(float, done.stdout.split()[-2:])
                clips = ONE_AT_A_TIME if alone else count
                what = "one at a time" if alone else "the course's pipeline"
                rows.append(
                    {
                        "what": what,
                        "clips": clips,
                        "seconds": seconds,
                        "clips/s": clips / seconds,
                        "peak MB": peak,
                    }
                )
                print(rows[-1])
    table = pd.DataFrame(rows)
    fast, slow = (
        table[table.what == what]["clips/s"].median() for what in ("the course's pipeline", "one at a time")
    )
    print(f"{fast / slow:.1f} times as fast as one clip at a time")
    target = Path(__file__).parent / "results" / corpus.name / "submission.csv"
    table.assign(model=Path(model).name, ratio=fast / slow, **circumstances()).to_csv(target, index=False)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        one_run(sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "1")
    elif len(sys.argv) > 2:
        main(Path(sys.argv[1]), *sys.argv[2:])
    else:
        sys.exit(__doc__)
