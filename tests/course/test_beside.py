"""The notebooks beside the way, extras/ and solutions/: they run where the course has run. And where a kernel may be started."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
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


# the code cells of a notebook up to its parameters, and where it would look for its files
BEGINNING = """
import os, sys, nbformat
for cell in nbformat.read(sys.argv[1], 4).cells:
    if cell.cell_type == "code":
        exec(cell.source)
        if "parameters" in cell.metadata.get("tags", []):
            break
print(os.getcwd())
"""


@pytest.mark.full
@pytest.mark.parametrize("where", [".", ".."], ids=["in its folder", "above the course"])
@pytest.mark.parametrize(
    "name", ["0_split.ipynb", "extras/speech_from_a_machine.ipynb", "solutions/0_split.ipynb"]
)
def test_a_kernel_may_be_started_elsewhere(name, where, tmp_path):
    """Jupyter and VS Code start a kernel in the notebook's folder, or in one that was set, as one above the course."""
    course = copy_course(tmp_path / "course")
    started = (course / name).parent if where == "." else course.parent
    program = [sys.executable, "-c", BEGINNING, course / name]
    environment = smoke(PYTHONPATH=str(course), MPLBACKEND="Agg")
    done = subprocess.run(program, cwd=started, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stdout.splitlines()[-1] == str(course)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *(ROOT / name for name in BESIDE)], ids=lambda path: path.stem)
def test_each_notebook_goes_to_the_folder_of_the_course(path):
    assert "os.chdir(course_folder())" in "".join(cell.source for cell in nbformat.read(path, 4).cells[:5])
