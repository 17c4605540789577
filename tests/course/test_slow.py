"""What takes long or needs a network, and is asked for: pytest -m slow"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from test_site import CHROMIUM, OPTIONS

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
    environment = os.environ | {"PROFILE": "smoke", "CORPUS": "synthetic", "LISTEN": "1"}
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
