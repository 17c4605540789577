"""How much faster the course makes its features than a loop over clips: python benchmarks/features.py [clips]

Both ways read the same wav files of the synthetic corpus and end with the same log-mel numbers, in one run, so that only
the ratio of their times counts.
"""

import sys
import tempfile
import time

import librosa
import numpy as np
import soundfile

from kws.preprocess import FLOOR, MEL, write_store
from kws.split import SAMPLE_RATE, get_corpus, make_manifest


def librosa_loop(paths):
    """Log-mel of wav files, one clip at a time: float32 [n, 98, 40]."""
    features = []
    for path in paths:
        pcm, _ = soundfile.read(path, dtype="float32")
        clip = np.pad(np.pad(pcm, (0, SAMPLE_RATE - len(pcm))), 16)
        power = librosa.feature.melspectrogram(
            y=clip, sr=SAMPLE_RATE, n_fft=512, win_length=480, hop_length=160, center=False, **MEL
        )
        features.append(np.log(power + FLOOR).T)
    return np.stack(features)


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    with tempfile.TemporaryDirectory() as work:
        manifest = make_manifest(get_corpus("synthetic", "sample"), work)
        manifest = manifest[manifest.speaker != ""].head(n).reset_index(drop=True)
        librosa_loop(manifest.path[:10])
        write_store(work, "log_mel", manifest[:10])
        start = time.perf_counter()
        expected = librosa_loop(manifest.path)
        loop = time.perf_counter() - start
        start = time.perf_counter()
        store = write_store(work, "log_mel", manifest)
        stored = time.perf_counter() - start
        assert np.abs(store[:] - expected).max() < 1e-3
    print(f"{len(manifest)} clips, wav files to log-mel: librosa loop {len(manifest) / loop:,.0f} clips/s")
    print(
        f"batched, to a store on disk {len(manifest) / stored:,.0f} clips/s: {loop / stored:.1f} times as fast"
    )


if __name__ == "__main__":
    main()
