"""Where people open it: python tools/badges.py OWNER/NAME

For whoever puts the course on GitHub: writes the badges of Colab and Binder for that repository below the title of README.md, and
into each notebook the cell that fetches the course in Colab. Run again, with the same or another name, it replaces them.
"""

import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- badges -->", "<!-- end of badges -->"
SET_UP = """# in Colab: fetch the course and what it needs; elsewhere this does nothing
import os
import subprocess
import sys

if "google.colab" in sys.modules:
    address = "https://github.com/{repository}"
    subprocess.run(["git", "clone", "-q", "--depth", "1", address, "course"], check=True)
    os.chdir("course")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-r", "req.txt"], check=True)"""


def badges(repository, notebooks):
    """Markdown: one badge of Binder for the course, one of Colab for each notebook."""
    binder = f"[![Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/{repository}/HEAD)"
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    page = f"https://colab.research.google.com/github/{repository}/blob/main"
    colab = [f"{name[0]} [![Colab]({image})]({page}/{name})" for name in notebooks]
    return " ".join([binder, *colab])


def main(repository, folder=ROOT):
    """Put badges and set-up cells for a repository into README.md and the notebooks of a folder."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        sys.exit(f"{repository}: OWNER/NAME of a repository on GitHub is wanted")
    paths = sorted(folder.glob("[0-6]_*.ipynb"))
    for path in paths:
        notebook = nbformat.read(path, 4)
        cells = [cell for cell in notebook.cells if "colab" not in cell.metadata.get("tags", [])]
        cell = nbformat.v4.new_code_cell(SET_UP.format(repository=repository), id="colab")
        cell.metadata["tags"] = ["colab"]
        notebook.cells = [cells[0], cell, *cells[1:]]
        nbformat.write(notebook, path)
    readme = folder / "README.md"
    text = re.sub(f"{BEGIN}.*?{END}\n\n", "", readme.read_text(), flags=re.DOTALL)
    title, rest = text.split("\n\n", 1)
    block = f"{BEGIN}\n{badges(repository, [path.name for path in paths])}\n{END}"
    readme.write_text(f"{title}\n\n{block}\n\n{rest}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
