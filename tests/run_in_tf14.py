"""Run a frozen graph in TensorFlow 1.4.0, of 2017: python run_in_tf14.py LIBRARIES GRAPH.pb IN.npy OUT.npy

It goes through the C interface. LIBRARIES is the folder `tensorflow` of the unpacked wheel. Two TensorFlows in one
process would share symbols and crash, so this is a program of its own.
"""

import ctypes
import os
import sys

import numpy as np


class Output(ctypes.Structure):
    """One output of an operation: TF_Output of c_api.h."""

    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def load_library(folder):
    """The C interface; pointers are returned as such and not cut to 32 bits."""
    mode = ctypes.RTLD_GLOBAL | os.RTLD_LAZY
    ctypes.CDLL(f"{folder}/libtensorflow_framework.so", mode)
    tf = ctypes.CDLL(f"{folder}/python/_pywrap_tensorflow_internal.so", mode)
    tf.TF_Version.restype = tf.TF_Message.restype = ctypes.c_char_p
    tf.TF_TensorByteSize.restype = ctypes.c_size_t
    for name in (
        "NewStatus NewGraph NewImportGraphDefOptions NewSessionOptions NewSession GraphOperationByName "
        "NewBufferFromString AllocateTensor TensorData"
    ).split():
        getattr(tf, f"TF_{name}").restype = ctypes.c_void_p
    return tf


def pointer(value):
    return ctypes.c_void_p(value)


def main(folder, graph_file, inputs_file, outputs_file):
    tf = load_library(folder)
    status = pointer(tf.TF_NewStatus())

    def check():
        if tf.TF_GetCode(status):
            sys.exit(f"TensorFlow {tf.TF_Version().decode()}: {tf.TF_Message(status).decode()}")

    def tensor(array, kind):
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        made = pointer(tf.TF_AllocateTensor(kind, dims, array.ndim, ctypes.c_size_t(array.nbytes)))
        ctypes.memmove(tf.TF_TensorData(made), array.ctypes.data, array.nbytes)
        return made

    def output(name, index=0):
        return Output(tf.TF_GraphOperationByName(graph, name), index)

    with open(graph_file, "rb") as file:
        content = file.read()
    graph = pointer(tf.TF_NewGraph())
    buffer = pointer(tf.TF_NewBufferFromString(content, ctypes.c_size_t(len(content))))
    tf.TF_GraphImportGraphDef(graph, buffer, pointer(tf.TF_NewImportGraphDefOptions()), status)
    check()
    session = pointer(tf.TF_NewSession(graph, pointer(tf.TF_NewSessionOptions()), status))
    check()
    inputs = (Output * 2)(output(b"decoded_sample_data", 0), output(b"decoded_sample_data", 1))
    outputs, results = (Output * 1)(output(b"labels_softmax")), []
    for clip in np.load(inputs_file):
        fed = (ctypes.c_void_p * 2)(tensor(clip.reshape(-1, 1), 1), tensor(np.array(16_000, "int32"), 3))
        got = (ctypes.c_void_p * 1)()
        tf.TF_SessionRun(session, None, inputs, fed, 2, outputs, got, 1, None, 0, None, status)
        check()
        made = pointer(got[0])
        values = ctypes.cast(tf.TF_TensorData(made), ctypes.POINTER(ctypes.c_float))
        results.append(np.ctypeslib.as_array(values, (tf.TF_TensorByteSize(made) // 4,)).copy())
    np.save(outputs_file, np.stack(results))
    print(tf.TF_Version().decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
