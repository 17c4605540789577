"""Where LiteRT spends its time on a clip: python benchmarks/litert_parts.py MODEL.keras ...

Times each model whole, its front end alone and its network alone, as float LiteRT models on one thread, in turn over several
rounds, so that a busy moment hits all. Writes benchmarks/results/speech_commands_16k/litert_parts.csv.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from kws.deploy import freeze, to_litert
from kws.inference import load_model
from kws.infra.experiments import circumstances
from kws.infra.files import write_csv
from kws.micro import split_model
from kws.pi import new_interpreter, time_runs

ROUNDS, RUNS = 10, 100


def main(paths):
    calls = {}
    for path in map(Path, paths):
        front_end, network = split_model(path)
        parts = {
            "whole": to_litert(freeze(load_model(path))),
            "front end": to_litert(freeze(front_end)),
            "network": tf.lite.TFLiteConverter.from_keras_model(network).convert(),
        }
        for part, content in parts.items():
            interpreter = new_interpreter(content, 1)
            tensor = interpreter.get_input_details()[0]
            noise = np.random.default_rng(0).normal(0, 0.1, [1, *tensor["shape"][1:]]).astype("float32")
            interpreter.set_tensor(tensor["index"], noise)
            calls[path.stem, part] = interpreter.invoke
    times = {name: [] for name in calls}
    for name in [*calls] * ROUNDS:
        times[name] += [*time_runs(calls[name], RUNS)]
    rows = [
        {"model": model, "part": part, "ms": np.median(ms), "p5": np.percentile(ms, 5), "p95": np.percentile(ms, 95)}
        | circumstances()
        for (model, part), ms in times.items()
    ]  # fmt: skip
    write_csv(Path("benchmarks/results/speech_commands_16k/litert_parts.csv"), pd.DataFrame(rows))
    print(pd.DataFrame(rows)[["model", "part", "ms", "p5", "p95"]].round(3))


if __name__ == "__main__":
    main(sys.argv[1:])
