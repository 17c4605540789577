"""Make exercises/ from the notebooks: python tools/exercises.py

In the copies, cells tagged `solution` are empty (code) or gone (text), and there are no outputs.
"""

from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent


def exercise(notebook):
    """A copy of a notebook for someone who wants to find the solutions alone; it runs in a subfolder of the course."""
    cells = [nbformat.v4.new_code_cell("%cd -q ..", id="to-the-course")]
    for cell in notebook.cells:
        solution = "solution" in cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            cells += [] if solution else [cell | {"source": cell.source.replace("](imgs/", "](../imgs/")}]
        else:
            source = "# your turn" if solution else cell.source
            cells.append(cell | {"source": source, "outputs": [], "execution_count": None})
    return notebook | {"cells": cells}


def main():
    folder = ROOT / "exercises"
    folder.mkdir(exist_ok=True)
    for path in sorted(ROOT.glob("[0-6]_*.ipynb")):
        nbformat.write(nbformat.from_dict(exercise(nbformat.read(path, 4))), folder / path.name)
        print(folder / path.name)


if __name__ == "__main__":
    main()
