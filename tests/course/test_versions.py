"""The course on the oldest and the newest Python that it promises, where they can be had."""

import shutil
import subprocess
from pathlib import Path

import pytest
from course.running import copy_course, fresh_environment, smoke

pytestmark = [pytest.mark.full, pytest.mark.timeout(1_500)]


def interpreter(version):
    """Path of a Python of this version: on PATH, or one of pyenv's; None if there is none that starts."""
    kept = sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python"), reverse=True)
    for path in [shutil.which(f"python{version}"), *kept]:
        if path and not subprocess.run([path, "-c", ""], capture_output=True).returncode:
            return path
    return None


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_seven_notebooks_on_another_python(version, tmp_path):
    if not (python := interpreter(version)):
        pytest.skip(f"there is no Python {version} here")
    course = copy_course(tmp_path / "course")
    # the versions that CI pins are those of one Python
    environment = {name: value for name, value in smoke().items() if not name.endswith("_CONSTRAINT")}
    inside = fresh_environment(tmp_path / "env", "-r", course / "req.txt", python=python, env=environment)
    command = [inside / "python", "tools/course.py"]
    done = subprocess.run(
        list(map(str, command)), cwd=course, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    assert (course / "data/synthetic-smoke/submission.csv").stat().st_size > 0
