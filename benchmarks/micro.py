"""Which networks run on a microcontroller: python benchmarks/micro.py [--results FILE] [MODEL ...]

Each network of the zoo that takes a feature becomes int8 throughout, untrained; the kernels of TensorFlow Lite Micro try it: its
bytes, the least arena, the operations; or what they cannot run. Each in a process of its own, for some end it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from kws import micro
from kws.infra.backend import keras
from kws.infra.experiments import circumstances
from kws.infra.files import CourseError, write_csv
from kws.zoo import ZOO


def try_one(name):
    """A row: the network in bytes, its arena, its operations, what cannot be run."""
    network = ZOO[name].build()
    feature = keras.Input(network.input_shape[1:])
    whole = keras.Model(feature, keras.layers.Softmax()(network(feature)))
    features = np.random.default_rng(0).normal(0, 1, (4, *network.input_shape[1:])).astype("float32")
    try:
        flatbuffer = micro.to_micro(whole, features)
    except CourseError as error:
        return {"cannot run": str(error)}
    row = {"bytes": len(flatbuffer), "operations": " ".join(micro.operators(flatbuffer))}
    row["cannot run"] = micro.missing_operators(flatbuffer)
    return row if row["cannot run"] else row | {"arena": micro.least_arena(flatbuffer)}


def main(names, results=None):
    """Print the table; write it to a file if one is named."""
    rows = []
    for name in names:
        command = [sys.executable, __file__, "--one", name]
        done = subprocess.run(command, capture_output=True, text=True)
        row = (
            json.loads(done.stdout.splitlines()[-1])
            if not done.returncode
            else {"cannot run": "the converter stops"}
        )
        rows.append({"model": name, **row})
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows).reindex(columns=["model", "bytes", "arena", "cannot run", "operations"])
    table = table.astype({"bytes": "Int64", "arena": "Int64"})
    if results:
        write_csv(results, table.assign(**circumstances()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "models", nargs="*", default=[name for name, model in ZOO.items() if model.feature != "pcm"]
    )
    parser.add_argument("--results", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(try_one(args.models[0])))
    else:
        main(args.models, args.results)
