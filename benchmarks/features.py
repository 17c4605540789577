"""How much faster the course makes its features than a loop: python benchmarks/features.py [--clips N] [--results FILE]

All three ways read the same wav files of the synthetic corpus, in one run, so that only the ratios of their times count:
the loop of older courses, librosa with its defaults, which resamples to 22,050 Hz; the same loop with the settings of this
course, which ends with the same numbers; and `write_store`, which also writes them to disk. With --results the numbers are
written to a csv file.
"""

import argparse
import tempfile
import time

import librosa
import numpy as np
import pandas as pd

from kws.audio import SAMPLE_RATE
from kws.infra.corpora import get_corpus, make_manifest
from kws.infra.experiments import circumstances
from kws.preprocess import FLOOR, MEL, write_store
from kws.split import Place


def older_loop(paths):
    """Mel spectrograms in dB with librosa's defaults, one clip at a time."""
    return [librosa.power_to_db(librosa.feature.melspectrogram(y=librosa.load(path)[0])) for path in paths]


def same_numbers_loop(paths):
    """The log-mel spectrogram of the course by librosa, one clip at a time: float32 [n, 98, 40]."""
    features = []
    for path in paths:
        pcm, _ = librosa.load(path, sr=SAMPLE_RATE)
        power = librosa.feature.melspectrogram(
            y=np.pad(librosa.util.fix_length(pcm, size=SAMPLE_RATE), 16),
            sr=SAMPLE_RATE,
            n_fft=512,
            win_length=480,
            hop_length=160,
            center=False,
            **MEL,
        )
        features.append(np.log(power + FLOOR).T)
    return np.stack(features)


def seconds_of(function, *args):
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=3_000)
    parser.add_argument("--results", help="csv file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        manifest = make_manifest(get_corpus("synthetic", "sample"), work).manifest
        manifest = manifest[manifest.speaker != ""].sample(args.clips, random_state=0).reset_index(drop=True)
        for loop in (older_loop, same_numbers_loop):  # the first call of each compiles
            loop(manifest.path[:10])
        write_store(Place.of(work, manifest.groupby("split").head(5)), "log_mel")
        older, _ = seconds_of(older_loop, manifest.path)
        same, expected = seconds_of(same_numbers_loop, manifest.path)
        ours, store = seconds_of(write_store, Place.of(work, manifest), "log_mel")
        assert np.abs(store[:] - expected).max() < 1e-3
    table = pd.DataFrame(
        {
            "way": ["librosa's defaults, clip by clip", "the same numbers, clip by clip", "write_store"],
            "clips/s": [round(len(manifest) / seconds) for seconds in (older, same, ours)],
            "write_store is faster by": [round(seconds / ours, 1) for seconds in (older, same, ours)],
        }
    ).assign(n=len(manifest), seed=0, **circumstances())
    print(table.to_string(index=False))
    if args.results:
        table.to_csv(args.results, index=False)
    if older < 8 * ours:
        raise SystemExit("write_store is to be at least 8 times as fast as the loop of older courses")


if __name__ == "__main__":
    main()
