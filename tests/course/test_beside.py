"""The notebooks beside the way, extras/ and solutions/: they run where the course has run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from course.running import NOTEBOOKS, copy_course, smoke

BESIDE = sorted(
    path.relative_to(ROOT).as_posix()
    for name in ("solutions", "extras")
    for path in ROOT.glob(f"{name}/*.ipynb")
)


@pytest.mark.full
@pytest.mark.timeout(1_500)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the cells run in forks")
def test_solutions_and_extras_run_after_the_course(tmp_path):
    course = copy_course(tmp_path / "course")
    program = [
        sys.executable,
        Path(__file__).with_name("cells.py"),
        *[path.name for path in NOTEBOOKS],
        *BESIDE,
    ]
    environment = smoke(PYTHONPATH=str(course))
    done = subprocess.run(program, cwd=course, env=environment, capture_output=True, text=True, timeout=1_400)
    assert done.returncode == 0, done.stdout[-1_000:] + done.stderr[-3_000:]
    assert done.stdout.count("ran through") == len(NOTEBOOKS) + len(BESIDE)


@pytest.mark.skipif(not (ROOT / "solutions").is_dir(), reason="there are none")
def test_each_notebook_has_its_solutions():
    assert [path.name for path in sorted(ROOT.glob("solutions/*.ipynb"))] == [path.name for path in NOTEBOOKS]
    for path in NOTEBOOKS:
        assert f"solutions/{path.name}" in path.read_text(), f"{path.name} does not link to its solutions"
