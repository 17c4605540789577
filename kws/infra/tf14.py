"""The genuine TensorFlow 1.4.0 of 2017, by its C interface: no Python of today imports it, but its libraries can be loaded.

A graph runs in a process of its own (python -m kws.infra.tf14): two TensorFlows in one process would share symbols and crash.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from kws.infra.files import CourseError, read_json

TF14_SHA256 = (
    "972724621a25d136799959cd03ef77b0cca6e1799cd3448f05514bc519b735ad"  # of what pip downloads from PyPI
)
TF14_OPS = read_json(
    Path(__file__).with_name("tf14_ops.json")
)  # {operation: names of its attributes}, by tools/tf14_ops.py


def tf14_libraries() -> Path:
    """Folder with the libraries of TensorFlow 1.4.0, from its wheel: downloaded once by pip (41 MB), kept in the user's cache.

    Raises
    ------
    CourseError: they cannot be had, and why, or are not those of PyPI.
    """
    import pooch

    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise CourseError("TensorFlow 1.4 has a wheel for x86-64 Linux only")
    cache = Path(pooch.os_cache("kws"))
    folder, wheel = cache / "tensorflow-1.4.0", cache / "tensorflow-1.4.0-cp36-cp36m-manylinux1_x86_64.whl"
    if not folder.exists():
        if not wheel.exists():
            _download_wheel(cache)
        if pooch.file_hash(wheel) != TF14_SHA256:
            wheel.unlink()
            raise CourseError(
                f"{wheel}: not the wheel of TensorFlow 1.4 that PyPI has; thrown away. Run this again"
            )
        part = Path(tempfile.mkdtemp(dir=cache))
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(("libtensorflow_framework.so", "_pywrap_tensorflow_internal.so")):
                    archive.extract(name, part)
        part.rename(folder)
    return next(folder.rglob("libtensorflow_framework.so")).parent


def _download_wheel(cache: Path) -> None:
    target = "--python-version 3.6 --implementation cp --abi cp36m --platform manylinux1_x86_64".split()
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(cache)]
    done = subprocess.run([*pip, *target, "tensorflow==1.4.0"], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CourseError(f"the wheel of TensorFlow 1.4 cannot be downloaded: {reason}")


def run_in_tf14(path: str | Path, clips: np.ndarray, runs: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
    """A frozen graph on PCM [n, 16,000] in the genuine TensorFlow 1.4.0: probabilities [n, labels], and version, ms, peak MB.

    Raises
    ------
    CourseError: it refuses the graph, with its message.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("in.npy", "out.npy")]
        np.save(files[0], np.asarray(clips, "float32"))
        done = _in_own_process(str(tf14_libraries()), str(Path(path).resolve()), *files, str(runs))
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
            raise CourseError(f"{path}: refused. {reason}")
        return np.load(files[1]), json.loads(done.stdout)


def _in_own_process(*arguments: str) -> subprocess.CompletedProcess:
    program = [sys.executable, "-m", "kws.infra.tf14", *arguments]
    package = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": package}
    return subprocess.run(program, env=environment, capture_output=True, text=True)


def list_operations(folder: Path) -> bytes:
    """All operations that the TensorFlow of a folder knows: bytes of an OpList. To be called in a process of its own."""
    buffer = _load_library(folder).TF_GetAllOpList().contents
    return ctypes.string_at(buffer.data, buffer.length)


class _Output(ctypes.Structure):
    """One output of an operation: TF_Output of c_api.h."""

    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class _Buffer(ctypes.Structure):
    """Bytes with their length: TF_Buffer of c_api.h."""

    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p)]


def _load_library(folder):
    """The C interface of the TensorFlow in a folder; pointers are returned as such and not cut to 32 bits."""
    mode = ctypes.RTLD_GLOBAL | os.RTLD_LAZY
    ctypes.CDLL(f"{folder}/libtensorflow_framework.so", mode)
    tf = ctypes.CDLL(f"{folder}/python/_pywrap_tensorflow_internal.so", mode)
    tf.TF_Version.restype = tf.TF_Message.restype = ctypes.c_char_p
    tf.TF_TensorByteSize.restype = ctypes.c_size_t
    tf.TF_GetAllOpList.restype = ctypes.POINTER(_Buffer)
    for name in (
        "NewStatus NewGraph NewImportGraphDefOptions NewSessionOptions NewSession GraphOperationByName "
        "NewBufferFromString AllocateTensor TensorData"
    ).split():
        getattr(tf, f"TF_{name}").restype = ctypes.c_void_p
    return tf


class _Graph:
    """A frozen contest graph in the TensorFlow of a folder, on one thread: PCM [16,000] -> probabilities [12]."""

    def __init__(self, folder, path):
        self.tf = _load_library(folder)
        self.status = ctypes.c_void_p(self.tf.TF_NewStatus())
        content = Path(path).read_bytes()
        graph = ctypes.c_void_p(self.tf.TF_NewGraph())
        buffer = ctypes.c_void_p(self.tf.TF_NewBufferFromString(content, ctypes.c_size_t(len(content))))
        options = ctypes.c_void_p(self.tf.TF_NewImportGraphDefOptions())
        self.tf.TF_GraphImportGraphDef(graph, buffer, options, self.status)
        self.check()
        options = ctypes.c_void_p(self.tf.TF_NewSessionOptions())
        one_thread = b"\x10\x01\x28\x01"  # a ConfigProto: one thread within operations, one between them
        self.tf.TF_SetConfig(options, one_thread, ctypes.c_size_t(len(one_thread)), self.status)
        self.session = ctypes.c_void_p(self.tf.TF_NewSession(graph, options, self.status))
        self.check()

        def output(name, index):
            operation = self.tf.TF_GraphOperationByName(graph, name)
            if not operation:
                sys.exit(f"{path}: no operation {name.decode()}, which the contest asks for")
            return _Output(operation, index)

        self.inputs = (_Output * 2)(output(b"decoded_sample_data", 0), output(b"decoded_sample_data", 1))
        self.outputs = (_Output * 1)(output(b"labels_softmax", 0))

    def check(self):
        if self.tf.TF_GetCode(self.status):
            sys.exit(
                f"TensorFlow {self.tf.TF_Version().decode()}: {self.tf.TF_Message(self.status).decode()}"
            )

    def tensor(self, array, kind):
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        made = ctypes.c_void_p(
            self.tf.TF_AllocateTensor(kind, dims, array.ndim, ctypes.c_size_t(array.nbytes))
        )
        ctypes.memmove(self.tf.TF_TensorData(made), array.ctypes.data, array.nbytes)
        return made

    def __call__(self, clip):
        fed = (ctypes.c_void_p * 2)(
            self.tensor(clip.reshape(-1, 1), 1), self.tensor(np.array(16_000, "int32"), 3)
        )
        got = (ctypes.c_void_p * 1)()
        self.tf.TF_SessionRun(
            self.session, None, self.inputs, fed, 2, self.outputs, got, 1, None, 0, None, self.status
        )
        self.check()
        made = ctypes.c_void_p(got[0])
        values = ctypes.cast(self.tf.TF_TensorData(made), ctypes.POINTER(ctypes.c_float))
        result = np.ctypeslib.as_array(values, (self.tf.TF_TensorByteSize(made) // 4,)).copy()
        for each in (*fed, made):
            self.tf.TF_DeleteTensor(ctypes.c_void_p(getattr(each, "value", each)))
        return result


def _run_graph(folder, path, inputs, outputs, runs):
    """Run a graph on clips (.npy to .npy), time it, and print version, ms of each run and peak memory (MB) as JSON."""
    graph, clips = _Graph(folder, path), np.load(inputs)
    np.save(outputs, np.stack([graph(clip) for clip in clips]))
    times = []
    for _ in range(int(runs)):
        start = time.perf_counter()
        graph(clips[0])
        times.append(1e3 * (time.perf_counter() - start))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"version": graph.tf.TF_Version().decode(), "ms": times, "peak MB": peak}))


if __name__ == "__main__":
    _run_graph(*sys.argv[1:])
