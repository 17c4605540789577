"""One slide for each notebook: python tools/slides.py writes _slides/index.html, to show (arrow keys), scroll or print.

Its picture is the one at the top of the notebook, as the committed cell that saves it shows it; its question is the first that
TEACHING.md has for the notebook.
"""

import html
import re
from pathlib import Path

import mistune
import nbformat

ROOT = Path(__file__).resolve().parent.parent
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Speech commands: a slide for each notebook</title>
<style>
@page { size: 16in 9in; margin: 0 }
html { scroll-snap-type: y mandatory; font: 2.4vmin/1.4 system-ui, sans-serif; color: #222; background: #fff }
body { margin: 0 }
section { box-sizing: border-box; width: min(100vw, 177.78vh); height: 100vh; margin: 0 auto; padding: 3vmin 5vmin;
  display: flex; flex-direction: column; scroll-snap-align: center; break-after: page; break-inside: avoid }
h2 { margin: 0 0 2vmin; font-size: 4vmin }
img { flex: 1; min-height: 0; object-fit: contain }
p { margin: 2vmin 0 0; font-size: 3.2vmin }
</style>
SLIDES
<script>
addEventListener("keydown", event => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key]
  if (!step) return
  event.preventDefault()
  const slides = [...document.querySelectorAll("section")], middle = innerHeight / 2
  const shown = slides.findIndex(slide => slide.getBoundingClientRect().bottom > middle)
  slides[shown + step]?.scrollIntoView({ block: "center" })
})
</script>
</html>
"""


def questions(text):
    """{number of a notebook: its first question} of the table in TEACHING.md."""
    rows = re.findall(r"(?m)^\| (\d) \| (.+?) \|", text.split("## What to ask")[1])
    return dict(reversed(rows))


def slide(path, question):
    """The slide of a notebook as HTML. ValueError where no cell has its picture."""
    cells = nbformat.read(path, 4).cells
    title = cells[0].source.splitlines()[0].removeprefix("# ")
    said, name = re.search(r"!\[(.+?)\]\(imgs/(\w+)\.png\)", cells[0].source).groups()
    for cell in cells:
        if re.search(rf'save_figure\(.+"{name}"', cell.source) and cell.cell_type == "code":
            (png,) = [out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {})]
            image = f'<img alt="{html.escape(said)}" src="data:image/png;base64,{png.strip()}">'
            return f"<section><h2>{html.escape(title)}</h2>\n{image}\n{mistune.html(question)}</section>"
    raise ValueError(f"{path.name}: no cell saves {name}.png")


def main(folder=ROOT / "_slides"):
    """Write index.html into a folder; returns its path."""
    asked = questions((ROOT / "TEACHING.md").read_text(encoding="utf-8"))
    slides = [slide(path, asked[path.stem[0]]) for path in sorted(ROOT.glob("[0-6]_*.ipynb"))]
    folder.mkdir(exist_ok=True)
    page = folder / "index.html"
    page.write_text(PAGE.replace("SLIDES", "\n".join(slides)), encoding="utf-8")
    return page


if __name__ == "__main__":
    print(main())
