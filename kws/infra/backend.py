"""Keras as the course needs it, whatever the environment and ~/.keras/keras.json say: from kws.infra.backend import keras."""

import os
from pathlib import Path

from kws.infra.files import CourseError

os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"
if os.environ["KERAS_BACKEND"] != "tensorflow":
    raise CourseError(
        f"KERAS_BACKEND={os.environ['KERAS_BACKEND']}: the course needs Keras on TensorFlow. Unset it, or set it to tensorflow"
    )

try:
    import keras
except Exception as error:  # whatever a spoilt file makes Keras and TensorFlow say
    settings = Path(os.environ.get("KERAS_HOME") or "~/.keras", "keras.json").expanduser()
    if isinstance(error, ModuleNotFoundError) or not settings.exists():
        raise
    said = f"{type(error).__name__} {error}".strip()
    raise CourseError(f"{settings}: Keras does not start with it ({said}). Mend it, or delete it") from error

if keras.backend.backend() != "tensorflow":
    raise CourseError(
        f"Keras runs on {keras.backend.backend()} already, the course needs TensorFlow: import kws before keras"
    )
# what keras.json and the environment may say otherwise
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)
keras.config.set_image_data_format("channels_last")
keras.config.set_dtype_policy("float32")
for limit in ("max_epochs", "max_steps_per_epoch"):  # which versions before 3.12 do not have
    getattr(keras.config, f"set_{limit}", lambda _: None)(None)

from tqdm.keras import TqdmCallback  # noqa: E402, F401  imports Keras by itself, so after ours
