"""A kit on another machine: copied by scp, timed by ssh."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kws.infra.files import CourseError


def bench_on(
    host: str,
    kit: str | Path,
    folder: str | Path = ".",
    python: str | Path = "kws/bin/python",
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Copy a kit to a folder of a host (user@name) by scp, run `pi.py bench` there by ssh: {ms, peak MB}.

    `options` go to scp and ssh. Raises CourseError, naming the host, where that fails.
    """
    there, program = shlex.quote(str(folder)), shlex.quote(str(python))
    bench = f"cd {there} && {program} kit/pi.py bench kit/model.tflite --json"
    steps = [
        ["scp", "-q", "-r", *options, "--", str(kit), f"{host}:{folder}"],
        ["ssh", *options, "--", host, bench],
    ]
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise CourseError(f"{step[0]}: there is no such program. Install OpenSSH's client") from error
        if done.returncode:
            raise CourseError(
                f"{host}: {step[0]} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
            )
    return json.loads(done.stdout)
