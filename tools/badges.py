"""Where people open it: python tools/badges.py

For whoever puts the course on GitHub. Write its address into pyproject.toml,

    [project.urls]
    Repository = "https://github.com/OWNER/NAME"

and run this: README.md gets the badges of Colab and Binder below its title, each notebook the cell that Colab needs. Run again,
with the same or another address, it replaces them. The site has its buttons from the same address (docs/conf.py).
"""

import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
BRANCH = "main"
BEGIN, END = "<!-- badges -->", "<!-- end of badges -->"
SET_UP = """# in Colab: fetch the course and what it needs; elsewhere this does nothing
import os
import subprocess
import sys

if "google.colab" in sys.modules and not os.path.exists("tools/course.py"):
    if not os.path.exists("/content/course"):
        address = "https://github.com/{repository}"
        subprocess.run(["git", "clone", "-q", "--depth", "1", address, "/content/course"], check=True)
    programs = [["-m", "pip", "install", "-q", "--editable", "."]{checkpoint}]
    for program in programs:
        subprocess.run([sys.executable, *program], cwd="/content/course", check=True)
    os.chdir("/content/course")"""
CHECKPOINT = ', ["tools/checkpoint.py", "{number}"]'  # what a lesson reads of the ones before it


def set_up(name, number=0):
    """Source of the cell that Colab needs, for the repository OWNER/NAME; with a number, what this lesson reads is made."""
    return SET_UP.format(repository=name, checkpoint=CHECKPOINT.format(number=number) if number else "")


def repository(folder=ROOT):
    """OWNER/NAME of the course on GitHub, from pyproject.toml in a folder; None where there is no address yet."""
    text = (folder / "pyproject.toml").read_text()
    found = re.search(r'(?m)^Repository = "https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?"$', text)
    return found and found[1]


def badges(name, notebooks):
    """Markdown: one badge of Binder for the repository OWNER/NAME, one of Colab for each notebook."""
    binder = f"[![Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/{name}/{BRANCH})"
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    page = f"https://colab.research.google.com/github/{name}/blob/{BRANCH}"
    colab = [f"{notebook[0]} [![Colab]({image})]({page}/{notebook})" for notebook in notebooks]
    return " ".join([binder, *colab])


def main(folder=ROOT):
    """Put the badges into README.md of a folder, the set-up cells into its notebooks."""
    if not (name := repository(folder)):
        sys.exit(__doc__)
    lessons = sorted(folder.glob("[0-6]_*.ipynb"))
    for path in [*lessons, *folder.glob("extras/*.ipynb"), *folder.glob("solutions/*.ipynb")]:
        notebook = nbformat.read(path, 4)
        cells = [cell for cell in notebook.cells if "colab" not in cell.metadata.get("tags", [])]
        number = int(path.name[0]) if path in lessons else 0
        cell = nbformat.v4.new_code_cell(set_up(name, number), id="colab")
        cell.metadata["tags"] = ["colab", "hide-input"]
        notebook.cells = [cells[0], cell, *cells[1:]]
        nbformat.write(notebook, path)
    readme = folder / "README.md"
    text = re.sub(f"{BEGIN}.*?{END}\n\n", "", readme.read_text(), flags=re.DOTALL)
    title, rest = text.split("\n\n", 1)
    block = f"{BEGIN}\n{badges(name, [path.name for path in lessons])}\n{END}"
    readme.write_text(f"{title}\n\n{block}\n\n{rest}")


if __name__ == "__main__":
    main()
