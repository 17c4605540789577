"""What the course's files say, without running them: exported modules, imports, committed pages, numbers of the texts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import ROOT
from course.running import NOTEBOOKS, copy_course

from kws.infra.corpora import ARABIC, ARCHIVES, ESC10
from kws.infra.synthetic import SPOKEN_WORDS, SYNTHETIC_SIZES

EXPORTED = ("split", "visualize", "preprocess", "models", "training", "deploy", "submission")
TOOLS = Path(sys.executable).parent


def modules(folder):
    """{path: bytes} of the package in a folder."""
    paths = [p for p in sorted((folder / "kws").rglob("*.py")) if p.name != "_modidx.py"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_export_is_up_to_date(tmp_path):
    course, before = copy_course(tmp_path / "course"), modules(ROOT)
    for name in EXPORTED:
        (course / f"kws/{name}.py").unlink()
    for _ in range(2):
        environment = os.environ | {"PYTHONPATH": str(course)}
        subprocess.run([TOOLS / "nbdev-export"], cwd=course, check=True, env=environment)
    after = modules(course)
    assert after.keys() == before.keys()
    for name, content in after.items():
        assert content == before[name], f"run nbdev-export: {name} differs"


def test_each_notebook_is_exported_to_one_module():
    found = {}
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code":
                for directive in re.findall(r"(?m)^#\s*\|\s*(.+)", cell.source):
                    words = directive.split()
                    assert words[0] == "default_exp" or len(words) == 1, f"{path.name}: #| {directive}"
                    if words[0] == "default_exp":
                        found[path.stem[0]] = words[1]
    assert found == dict(zip("0123456", EXPORTED))


@pytest.mark.skipif(not (TOOLS / "lint-imports").exists(), reason="needs import-linter")
def test_import_contracts():
    command = [TOOLS / "lint-imports", "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_cell_runs_a_shell():
    """No command is a string that a shell takes apart, so nothing that is read can become one."""
    sources = {
        f"{path.name}, cell {number}": cell.source
        for path in [*NOTEBOOKS, *sorted(ROOT.glob("extras/*.ipynb"))]
        for number, cell in enumerate(nbformat.read(path, 4).cells)
        if cell.cell_type == "code"
    }
    assert any(where.startswith("tagging") for where in sources)
    for pattern in ("tools/*.py", "kws/**/*.py", "benchmarks/*.py", "extras/**/*.py"):
        sources |= {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.glob(pattern)}
    words = (
        "shell=True",
        "os.system(",
        "os.popen(",
        "getoutput(",
        "get_ipython().system(",
        "eval(",
        "exec(",
        "pickle.",
        "import pickle",
    )
    for where, source in sources.items():
        for word in words:
            assert word not in source.replace("allow_pickle=False", ""), f"{where}: {word}"
        for line in source.splitlines():
            assert not line.lstrip().startswith(("!", "%")), f"{where}: {line}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_page(path):
    notebook = json.loads(path.read_text())
    code = [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        and "".join(cell["source"]).strip()
        and "colab" not in cell["metadata"].get("tags", [])  # of tools/badges.py
    ]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), (
        "not run in order from a clean start"
    )
    outputs = json.dumps([cell["outputs"] for cell in code])
    assert '"output_type": "error"' not in outputs
    assert not re.search(r"/(home|root|tmp|work|Users)/", outputs), "a path of somebody's machine"
    assert path.stat().st_size < 1_500_000
    assert [cell["metadata"].get("tags") for cell in code].count(["parameters"]) == 1


def test_no_voice_of_a_person_is_committed():
    for path in [*NOTEBOOKS, *ROOT.glob("extras/*.ipynb"), *ROOT.glob("solutions/*.ipynb")]:
        outputs = [o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", [])]
        players = [o for o in outputs if "<audio" in "".join(o.get("data", {}).get("text/html", ""))]
        assert all(player.metadata.get("sound") == "made" for player in players), path
        assert sum(player.data["text/html"].count("<audio") for player in players) <= 8, path


def test_readme_and_results_say_what_was_measured():
    from tools.results import all_results, with_figures

    readme, folder = (ROOT / "README.md").read_text(), ROOT / "benchmarks/results"
    assert with_figures(readme, folder) == readme, "run python tools/results.py"
    assert all_results(folder) == (ROOT / "RESULTS.md").read_text(), "run python tools/results.py"


def test_every_number_of_the_texts_has_a_source():
    text = (ROOT / "README.md").read_text() + (ROOT / "RUNNING.md").read_text()
    text = re.sub(
        r"(?s)<!-- (\w+): written by.*?<!-- end of \1 -->|## The Pi's processor without a Pi.*", "", text
    )
    names = r"`[^`]*`|\]\([^)]*\)|v0\.0[12]|notebooks? \d(?: and \d)?|\[\d_\w+|arXiv:[\d.]+|Python 3\.10 to 3\.13|SHA-256|N=4"
    names += r"|16 kHz, 16-bit|TensorFlow 1\.4|int8|Apache-2\.0|ESC-10|CC BY 4\.0|float32 \[[^]]*\]"
    names += r"|DCASE 2019(?: task 2)?|Tagging 2019|MobileNet v1|23 million clips|section \d|(?m:^    (?:python|kws|    )[^#\n]*)"
    numbers = set(re.findall(r"\d[\d,.]*\d|\d", re.sub(names, "", text)))
    known = {str(len(SPOKEN_WORDS)), "3.5"}  # GB of train.7z and test.7z, as the contest's page lists them
    for archive in (*ARCHIVES.values(), ARABIC, ESC10):
        known |= {f"{archive.clips:,}", f"{archive.bytes / 1e6:.0f}", f"{archive.bytes / 1e9:.1f}"}
    known |= {f"{SYNTHETIC_SIZES[profile][0]:,}" for profile in ("sample", "full")}
    assert numbers and numbers <= known, numbers - known


def test_testing_says_what_was_counted(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from tools.testing import FILE, with_cases

    page = (ROOT / "TESTING.md").read_text()
    assert with_cases(page) == page, "run python tools/testing.py"
    counts = pd.read_csv(FILE)
    assert (counts.lost == 0).all() and (counts.survived == counts.tried).all()
