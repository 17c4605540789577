"""The executed notebooks as a site: python tools/site.py [FOLDER]

A page per notebook and per text of the course in _site/ or FOLDER; index.html, the contents, is the README. All a page needs
lies beside it: it can be opened from a disk, without a server or a network.
"""

import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from plotly.offline import get_plotlyjs

ROOT = Path(__file__).resolve().parent.parent
TEXTS = {
    "README.md": "index",
    "TEACHING.md": "TEACHING",
    "TESTING.md": "TESTING",
    "CONTRIBUTING.md": "CONTRIBUTING",
    "data/README.md": "data/index",
}
FRAME = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 17px/1.5 sans-serif; max-width: 56em; margin: 2em auto; padding: 0 1em }}
img {{ max-width: 100% }} pre {{ background: #f4f4f4; padding: 0.6em; overflow-x: auto }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }} td, th {{ border: 1px solid #ccc; padding: 0.3em 0.6em }}
</style></head><body>{body}</body></html>
"""


def linked(html):
    """A page's HTML with links to notebooks and texts turned into links to their pages."""
    html = re.sub(r'href="([0-6]_\w+)\.ipynb', r'href="\1.html', html)
    for text, name in TEXTS.items():
        html = html.replace(f'href="{text}', f'href="{name}.html')
    return html


def notebook_page(path):
    """An executed notebook as HTML; plotly comes from the same folder."""
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")
    html, _ = exporter.from_notebook_node(nbformat.read(path, 4))
    html = re.sub(r'<script[^>]*src="https://cdnjs[^"]*"[^>]*></script>', "", html)
    return re.sub(
        r'<script[^>]*src="https://cdn\.plot\.ly/[^"]*"[^>]*>', '<script src="plotly.min.js">', html
    )


def text_page(path):
    """A text in Markdown as HTML."""
    text = path.read_text()
    return FRAME.format(title=re.search(r"^# (.+)", text, re.M)[1], body=markdown2html(text))


def files_linked(path):
    """Files of the course that a text links to, other than pages and pictures; relative to ROOT."""
    files = {(path.parent / link).resolve() for link in re.findall(r"\]\(([^):#]+)\)", path.read_text())}
    return {
        file.relative_to(ROOT)
        for file in files
        if file.is_file() and file.suffix not in (".md", ".ipynb", ".png")
    }


def main(folder=ROOT / "_site", notebooks=ROOT):
    """Write the site into a folder, with the executed notebooks of another one."""
    folder = Path(folder)
    shutil.copytree(ROOT / "imgs", folder / "imgs", dirs_exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    (folder / "plotly.min.js").write_text(get_plotlyjs())
    pages = {path.stem: notebook_page(path) for path in sorted(Path(notebooks).glob("[0-6]_*.ipynb"))}
    pages |= {name: text_page(ROOT / text) for text, name in TEXTS.items()}
    for name, html in pages.items():
        (folder / f"{name}.html").write_text(linked(html))
    for file in {file for text in TEXTS for file in files_linked(ROOT / text)}:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    print(folder / "index.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
