"""Keras as the course needs it, whatever the environment and ~/.keras/keras.json say: from kws.infra.backend import keras."""

import os

from kws.infra.files import CourseError

if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
    raise CourseError(
        f"KERAS_BACKEND={os.environ['KERAS_BACKEND']}: the course needs Keras on TensorFlow. Unset it, or set it to tensorflow"
    )

import keras

if keras.backend.backend() != "tensorflow":
    raise CourseError(
        f"Keras runs on {keras.backend.backend()} already, the course needs TensorFlow: import kws before keras"
    )
# what keras.json may say otherwise
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)
keras.config.set_image_data_format("channels_last")
keras.config.set_dtype_policy("float32")
