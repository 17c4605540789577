"""What TEACHING.md plans can be done: the sections that it names need nothing of those that it leaves out."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

RUFF = Path(sys.executable).with_name("ruff")


def planned(number):
    """The numbers of the sections of a notebook in the plan of half a day."""
    plan = (ROOT / "TEACHING.md").read_text().split("## Half a day")[1].split("\n## ")[0]
    text = re.search(rf"\({number}_\w+\.ipynb\), sections ([\d, and to]+)", plan)[1]
    spans = [re.findall(r"\d+", part) for part in re.split(r", | and ", text.strip()) if part]
    return {n for span in spans for n in range(int(span[0]), int(span[-1]) + 1)}


def source_of(number):
    """The code of the planned sections, and of what comes before the first."""
    (path,) = ROOT.glob(f"{number}_*.ipynb")
    section, kept, wanted = 0, [], planned(number) | {0}
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            section = ([section] + [int(n) for n in re.findall(r"(?m)^## (\d+)\. ", cell.source)])[-1]
        elif section in wanted:
            kept.append(cell.source)
    return "\n".join(kept)


@pytest.mark.skipif(not RUFF.exists(), reason="needs ruff")
@pytest.mark.parametrize("number", "4")
def test_half_a_day_needs_nothing_that_it_leaves_out(number, tmp_path):
    code = tmp_path / "planned.py"
    code.write_text(source_of(number))
    assert len(planned(number)) > 2 and code.stat().st_size > 2_000
    command = [RUFF, "check", "--isolated", "--no-cache", "--select", "F821", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
