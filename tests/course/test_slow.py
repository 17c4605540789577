"""What takes long or needs a network, and is asked for: pytest -m slow"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import ROOT
from course.running import copy_course, run_course, smoke
from course.test_site import CHROMIUM, OPTIONS
from packaging.requirements import Requirement
from robust.kill import tree

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_req_txt_can_be_installed(version, tmp_path):
    lines = [line.split("#")[0].strip() for line in (ROOT / "req.txt").read_text().splitlines()]
    wanted = [Requirement(line) for line in lines if line]
    for each in wanted:
        assert not any(pin.operator in ("==", "===") for pin in each.specifier), f"{each} is pinned"
    # pip asks the markers of the Python that it runs on
    here = [
        f"{each.name}{each.specifier}"
        for each in wanted
        if not each.marker or each.marker.evaluate({"python_version": version})
    ]
    options = ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--target", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--python-version", version, *options]
    done = subprocess.run(
        [*command, *here], env=os.environ | {"PIP_CONSTRAINT": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.timeout(600)
def test_jupyterlab_runs_a_notebook(tmp_path):
    from playwright.sync_api import sync_playwright

    for name in ("kws", "imgs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "0_split.ipynb", tmp_path)
    before = nbformat.read(tmp_path / "0_split.ipynb", 4)
    for cell in before.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(before, tmp_path / "0_split.ipynb")
    log = tmp_path / "lab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--allow-root"]
    environment = smoke(LISTEN="1")
    with log.open("w") as stream:
        lab = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=stream, start_new_session=True)
    try:
        while not (address := re.search(r"http://127\S+token=\w+", log.read_text())):
            assert lab.poll() is None, log.read_text()
            time.sleep(1)
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS).new_page()
            page.goto(address[0].replace("/lab?", "/lab/tree/0_split.ipynb?"))
            page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            deadline = time.monotonic() + 400
            while True:
                page.keyboard.press("Control+s")
                after = nbformat.read(tmp_path / "0_split.ipynb", 4)
                code = [cell for cell in after.cells if cell.cell_type == "code" and cell.source.strip()]
                if all(cell.execution_count for cell in code) or time.monotonic() > deadline:
                    break
                time.sleep(5)
    finally:
        os.killpg(lab.pid, signal.SIGTERM)
    wrong = [out for cell in code for out in cell.outputs if out.output_type == "error"]
    assert not wrong, wrong
    assert all(cell.execution_count for cell in code), "not all cells ran"
    assert (tmp_path / "data/synthetic-smoke/manifest.csv").exists()


def children_of(process):
    """Process ids of the children of a process."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()] if path.exists() else []


@pytest.mark.timeout(7_200)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for the kernel in /proc")
def test_a_kernel_killed_in_the_middle_of_each_notebook(tmp_path, cases):
    alone, killed = (copy_course(tmp_path / name) for name in ("alone", "killed"))
    assert run_course(alone).returncode == 0
    seconds = pd.read_json(alone / "data/synthetic-smoke/seconds.json", typ="series")
    numbers = random.Random(0)
    for notebook in sorted(killed.glob("[0-6]_*.ipynb")):
        latest = 0.8 * seconds[notebook.stem]
        while True:  # until it was killed before its end
            course = subprocess.Popen(
                [sys.executable, "tools/course.py", notebook.name],
                cwd=killed,
                env=smoke(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            latest = numbers.uniform(0.4, 1) * latest
            time.sleep(latest)
            for kernel in children_of(course.pid):
                os.kill(kernel, signal.SIGKILL)
            said = course.communicate()[1]
            if course.returncode:
                break
        with cases("fault", "kernel killed in the middle of a notebook"):
            assert course.returncode == 1 and "its kernel" in said and "Traceback" not in said, said
            again = run_course(killed, notebook.name)
            assert again.returncode == 0, again.stderr[-2_000:]
    works = [folder / "data/synthetic-smoke" for folder in (alone, killed)]
    for file in ("manifest.csv", "labels.txt", "submission.csv", "frozen.pb"):
        one, other = ((work / file).read_bytes() for work in works)
        assert one == other, file
    for store in works[0].glob("*.bc"):
        assert tree(store) == tree(works[1] / store.name), store
