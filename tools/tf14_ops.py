"""Write kws/infra/tf14_ops.json, the operations of TensorFlow 1.4.0 and the names of their attributes: python tools/tf14_ops.py

The genuine library is asked, from its wheel (41 MB, downloaded once).
"""

import json
import subprocess
import sys
from pathlib import Path

from tensorflow.core.framework import op_def_pb2

from kws.infra.tf14 import tf14_libraries

ROOT = Path(__file__).resolve().parent.parent


def operations():
    """{operation: names of its attributes} of the genuine TensorFlow 1.4.0."""
    code = (
        "import sys; from kws.infra import tf14; sys.stdout.buffer.write(tf14.list_operations(sys.argv[1]))"
    )
    program = [sys.executable, "-c", code, str(tf14_libraries())]
    asked = subprocess.run(program, capture_output=True, check=True, cwd=ROOT)
    found = op_def_pb2.OpList.FromString(asked.stdout)
    return {op.name: sorted(attr.name for attr in op.attr) for op in found.op}


if __name__ == "__main__":
    lines = ",\n".join(
        f'"{name}": {json.dumps(attributes)}' for name, attributes in sorted(operations().items())
    )
    (ROOT / "kws/infra/tf14_ops.json").write_text("{\n" + lines + "\n}\n")
