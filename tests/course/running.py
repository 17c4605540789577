"""The course in a folder of its own, and its notebooks run there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

NOTEBOOKS = sorted(ROOT.glob("[0-6]_*.ipynb"))


def copy_course(folder):
    """The course without its data in another folder, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*NOTEBOOKS, ROOT / "pyproject.toml", ROOT / "req.txt"]:
        shutil.copy(path, folder)
    ignored = shutil.ignore_patterns("__pycache__", "_modidx.py")
    for name in ("kws", "tools", "extras", "solutions", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


def smoke(**more):
    """The environment for the smallest profile."""
    passed_on = ("WORDS", "HELD_OUT", "MODEL", "EXPERIMENTS", "PEERS", "CLUSTER", "SEED", "VERBOSE")
    environment = {name: value for name, value in os.environ.items() if name not in passed_on}
    return environment | {"PROFILE": "smoke", "CORPUS": "synthetic"} | more


def run_course(course, *args, tool="course.py", **environment):
    """Run tools/course.py, or another tool, in a copy of the course."""
    return subprocess.run(
        [sys.executable, f"tools/{tool}", *args],
        cwd=course,
        env=smoke(**environment),
        capture_output=True,
        text=True,
    )


def fresh_environment(folder, *wanted, python=sys.executable, **options):
    """The folder of programs of a new environment with what pip is to install; skips where no index can be reached."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    install = [programs / "python", "-m", "pip", "install", "-q", *wanted]
    if uv := shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent)):
        install = [uv, "pip", "install", "-q", "--python", programs / "python", *wanted]
    done = subprocess.run(list(map(str, install)), capture_output=True, text=True, **options)
    if done.returncode and "onnect" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr[-2_000:]
    return programs
