"""What TEACHING.md plans and says can be done: its sections exist, its half a day runs, its slides have pictures."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from course.running import NOTEBOOKS, copy_course, run_course

from tools import slides

RUFF = Path(sys.executable).with_name("ruff")
TEXT = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
HALF_A_DAY = TEXT.split("## Half a day")[1].split("\n## ")[0]
NUMBERS = r"((?:\d+|, | and | to )+)"


def numbers(text):
    """The numbers of “1, 2 and 4 to 6”."""
    spans = [re.findall(r"\d+", part) for part in re.split(r", | and ", text)]
    return [n for span in spans if span for n in range(int(span[0]), int(span[-1]) + 1)]


def steps():
    """What the plan of half a day runs, in order: ("checkpoint", number), or (number of a notebook, sections; none for all)."""
    pattern = rf"make checkpoint N=(\d)|\((\d)_\w+\.ipynb\), (?:all cells|sections {NUMBERS})"
    for checkpoint, number, sections in re.findall(pattern, HALF_A_DAY):
        yield ("checkpoint", checkpoint) if checkpoint else (number, numbers(sections))


def planned(number, sections):
    """A notebook with the cells of some sections, and those before the first."""
    notebook = nbformat.read(NOTEBOOKS[int(number)], 4)
    section, kept = 0, []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = ([section] + [int(n) for n in re.findall(r"(?m)^## (\d+)\. ", cell.source)])[-1]
        if not sections or section in [0, *sections]:
            kept.append(cell)
    notebook.cells = kept
    return notebook


@pytest.mark.skipif(not RUFF.exists(), reason="needs ruff")
def test_half_a_day_needs_no_name_that_it_leaves_out(tmp_path):
    for number, sections in steps():
        if number != "checkpoint":
            code = tmp_path / f"planned_{number}.py"
            cells = [cell.source for cell in planned(number, sections).cells if cell.cell_type == "code"]
            code.write_text("\n".join(cells))
            assert code.stat().st_size > 2_000
    command = [RUFF, "check", "--isolated", "--no-cache", "--select", "F821", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.full
@pytest.mark.timeout(2_400)
def test_half_a_day_runs(tmp_path):
    """With the table that the checkpoint lays down for the sample, where smoke has none."""
    course, run = copy_course(tmp_path / "course"), []
    work = course / "data/synthetic-smoke"
    work.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks/results/synthetic/experiments.csv", work)
    (course / "planned").mkdir()
    for step, what in steps():
        if step == "checkpoint":
            done = run_course(course, what, tool="checkpoint.py")
        else:
            nbformat.write(planned(step, what), course / "planned" / NOTEBOOKS[int(step)].name)
            done = run_course(course, f"planned/{NOTEBOOKS[int(step)].name}")
        assert done.returncode == 0, f"{step} {what}: {done.stdout[-1_000:]}{done.stderr[-2_000:]}"
        run.append(f"N={what}" if step == "checkpoint" else step)
    assert run == ["0", "1", "N=3", "2", "N=4", "4", "N=6", "6"]
    assert (work / "submission.csv").exists()


def outline(path):
    """{number: title} of the sections of a notebook, and the numbers of its exercises."""
    text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    sections = dict(re.findall(r"(?m)^## (\d+)\. (.+)$", text))
    exercises = re.findall(r"(?m)^(?:\*\*)?(\d)\.", text.split("\n## Exercises\n")[1])
    return {int(n): title for n, title in sections.items()}, [*map(int, exercises)]


def test_sections_and_exercises_that_are_named_exist():
    notebooks, named = [outline(path) for path in NOTEBOOKS], []
    for number, said in re.findall(r"\((\d)_\w+\.ipynb\)([^|\[]*)", TEXT):  # the plans
        named += [(number, *which) for which in re.findall(rf"(section|exercise)s? {NUMBERS}", said)]
    for kind, which, number in re.findall(r"(section|exercise) (\d+) of notebook (\d)", TEXT):
        named.append((number, kind, which))
    for number, which in re.findall(rf"(?m)^\| (\d) \|.+\(sections? {NUMBERS}\)\. \|$", TEXT):  # the answers
        named.append((number, "section", which))
    assert len(named) > 40
    for number, kind, which in named:
        sections, exercises = notebooks[int(number)]
        assert {*numbers(which)} <= {*(sections if kind == "section" else exercises)}, (number, kind, which)
    for section, number, title in re.findall(r"section (\d+) of notebook (\d), “(.+?)”", TEXT):
        assert notebooks[int(number)][0][int(section)] == title


def test_a_slide_for_each_notebook(tmp_path):
    text = slides.main(tmp_path / "slides").read_text(encoding="utf-8")
    each = re.findall(
        r"<section><h2>(\d).+?</h2>\n<img alt=\".+?\" src=\"data:image/png;base64,(.+?)\">\n<p>.+\?</p>", text
    )
    assert [number for number, _ in each] == list("0123456") and all(len(png) > 9_000 for _, png in each)
    assert "http" not in text and len(slides.questions(TEXT)) == 7
