"""The site of the course: make site

Sphinx reads the committed notebooks and texts where they are; nothing is executed, and no page asks another host for anything.
"""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

from latex2mathml.converter import convert as mathml
from plotly.offline import get_plotlyjs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kws.cli import app as commands  # noqa: E402
from tools.badges import BRANCH, repository  # noqa: E402

project, author, copyright = (
    "Speech commands",
    "the authors of the course",
    "the authors of the course, Apache-2.0",
)
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "README"
TEXTS = [f"{name}.md" for name in "README RESULTS RUNNING TEACHING TESTING CONTRIBUTING CHANGELOG".split()]
include_patterns = [
    *TEXTS,
    "data/README.md",
    "demo/README.md",
    "*.ipynb",
    "extras/*.ipynb",
    "solutions/*.ipynb",
    "docs/*.md",
]
PARTS = {
    "Lessons": ["[0-6]_*.ipynb"],
    "Extras": ["extras/*.ipynb"],
    "Solutions": ["solutions/*.ipynb"],
    "Reference": ["demo/README.md", "docs/api.md", *TEXTS[1:], "data/README.md"],
}

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
nb_output_stderr = "remove"  # progress bars that are done
myst_heading_anchors = 3
smartquotes_action = "q"  # two dashes of an option stay two
suppress_warnings = [
    "myst.header",
    "myst.xref_missing",
    "misc.highlighting_failure",
    "mystnb.unknown_mime_type",
    "ref.python",
]
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_inherit_docstrings = False  # what Keras says of its own

html_theme = "sphinx_book_theme"
html_title = "Speech commands"
html_static_path = ["static"]
html_css_files = ["course.css"]
html_logo = "../imgs/log_mel.png"
html_copy_source = True
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "navbar_persistent": [],
}
if repository():  # from pyproject.toml; each notebook has the cell that Colab needs by tools/badges.py
    html_theme_options |= {
        "repository_url": f"https://github.com/{repository()}",
        "repository_branch": BRANCH,
        "use_repository_button": True,
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        },
    }


def contents():
    """The sidebar, as MyST: a hidden table of contents for each part of the site."""
    text = ""
    for title, patterns in PARTS.items():
        pages = [path.relative_to(ROOT) for pattern in patterns for path in sorted(ROOT.glob(pattern))]
        names = "\n".join(page.with_suffix("").as_posix() for page in pages)
        text += (
            f"\n\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n/" + names.replace("\n", "\n/") + "\n```\n"
        )
    return text


def api(text):
    """docs/api.md with the docstrings for each line `- @module`, the names for {module.TABLE}, and the help of `kws`."""

    def names(match):
        module, _, table = match[1].rpartition(".")
        return ", ".join(f"`{name}`" for name in getattr(importlib.import_module(module), table))

    text = re.sub(r"\{(kws[\w.]+)\}", names, text)
    module = r"### \1\n\n```{eval-rst}\n.. automodule:: \1\n   :members:\n   :exclude-members: voice_detector\n```\n"
    text = re.sub(r"^- @(kws\S+)$", module, text, flags=re.MULTILINE)
    usage = commands.generate_docs(output_format="markdown", heading_level=3).replace(" -m sphinx", "")
    return text.replace("@commands", re.sub(r"<(\w+)>", r"`<\1>`", usage))


def adapt(app, name, source):
    """The text of a page as Sphinx reads it: a sidebar, plotly from this site, answers behind a click."""
    if name == root_doc:
        source[0] += contents()
    if name == "docs/api":
        source[0] = api(source[0])
    if name == "demo/README":
        source[0] += '\n\n<p><a href="index.html"><strong>Open the page that listens</strong></a></p>\n'
    if not (app.srcdir / f"{name}.ipynb").exists():
        return
    notebook, static = json.loads(source[0]), "../" * name.count("/") + "_static"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":  # browsers draw MathML by themselves
            cell["source"] = re.sub(r"\$([^$`\n]+)\$", lambda math: mathml(math[1]), "".join(cell["source"]))
        if name.startswith("solutions/") and cell["cell_type"] == "code":
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                html = "".join(output["data"]["text/html"])
                html = re.sub(r'<script[^>]*(cdnjs[^>]*>|>\s*import "https://cdn)[^<]*</script>', "", html)
                script = f'<script src="{static}/plotly.min.js">'
                output["data"]["text/html"] = re.sub(
                    r"<script[^>]*https://cdn\.plot\.ly/[^>]*>", script, html
                )
                output["data"].pop("application/vnd.plotly.v1+json", None)
    source[0] = json.dumps(notebook)


def finish(app, error):
    """Beside the pages: plotly, and the first page under the name that web servers look for."""
    if not error and app.builder.format == "html":
        (app.outdir / "_static/plotly.min.js").write_text(get_plotlyjs())
        shutil.copy(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app):
    app.connect("source-read", adapt)
    app.connect("build-finished", finish)
