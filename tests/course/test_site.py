"""The site of the executed notebooks, as a browser sees it."""

import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import nbformat
import pytest
from conftest import ROOT
from course.running import NOTEBOOKS

from tools import badges

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic"]


full = pytest.mark.full
one_site = pytest.mark.xdist_group("site")  # so that it is made once


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The site, built with no warning."""
    folder = tmp_path_factory.mktemp("site")
    program = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-c",
        "docs",
        "-d",
        folder / "doctrees",
        ".",
        folder / "html",
    ]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3_000:]
    return folder / "html"


def written(pages):
    """The pages of the site, without what Sphinx adds for itself."""
    return sorted(set(pages.rglob("*.html")) - set(pages.rglob("_*/**/*.html")))


@full
@one_site
def test_every_page_is_there_and_in_the_sidebar(pages):
    sources = [*NOTEBOOKS, *ROOT.glob("extras/*.ipynb"), *ROOT.glob("solutions/*.ipynb"), *ROOT.glob("*.md")]
    sidebar = (pages / "index.html").read_text()
    for source in sources:
        name = source.relative_to(ROOT).with_suffix(".html").as_posix()
        assert (pages / name).exists() and (f'href="{name}"' in sidebar or name == "README.html"), name


@full
@one_site
def test_links_and_pictures_are_there(pages):
    for page in written(pages):
        for link in re.findall(r'(?:href|src)="([^"#:?]+)[^":]*"', page.read_text()):
            if not link.endswith("index.html"):  # of demo/, which `make site` lays beside the pages
                assert (page.parent / unquote(link)).exists(), f"{page.name}: {link}"


def test_badges(tmp_path):
    for name in ("README.md", *(path.name for path in NOTEBOOKS)):
        shutil.copy(ROOT / name, tmp_path)
    badges.main("someone/course", tmp_path)
    once = {path: path.read_text() for path in tmp_path.iterdir()}
    readme = once[tmp_path / "README.md"]
    assert readme.count("colab.research.google.com/github/someone/course/blob/main/") == 7
    assert "mybinder.org/v2/gh/someone/course" in readme and readme.startswith("# ")
    badges.main("another/course", tmp_path)
    assert "someone/" not in "".join(path.read_text() for path in tmp_path.iterdir())
    badges.main("someone/course", tmp_path)
    assert once == {path: path.read_text() for path in tmp_path.iterdir()}
    first, second, *_ = nbformat.read(tmp_path / "0_split.ipynb", 4).cells
    assert (
        first.source.startswith("# 0") and "google.colab" in second.source and "colab" in second.metadata.tags
    )
    with pytest.raises(SystemExit, match="OWNER/NAME"):
        badges.main("https://github.com/someone/course; rm", tmp_path)


def links_of(folder):
    program = f"import sys; from tools import links; sys.exit(links.main({str(folder)!r}, offline=True))"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_links_of_texts():
    done = links_of(ROOT)
    assert done.returncode == 0, done.stdout


@full
def test_broken_links_are_found(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/README.md").write_text("# Data\n")
    text = "# Course\n\n[this](data/README.md), [that](there_is_none.md), [elsewhere](https://localhost:1/none)\n"
    (tmp_path / "README.md").write_text(text)
    done = links_of(tmp_path)
    assert done.returncode == 1 and "2 failed, 1 passed" in done.stdout, done.stdout


@full
@one_site
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_pages_in_a_browser(pages, width, scheme):
    """No error, no broken picture, nothing wider than the screen, nothing from another host; the 3-D plot turns."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked = []
        context.on("request", lambda request: asked.append(request.url))
        for path in written(pages):
            page, errors = context.new_page(), []
            page.on("pageerror", lambda error, errors=errors: errors.append(error))
            page.goto(path.as_uri(), timeout=60_000)
            assert not errors, f"{path.name}: {errors}"
            page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
            broken = "[...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src)"
            assert page.evaluate(broken) == [], path.name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path.name} is too wide"
            assert page.evaluate("document.documentElement.dataset.theme") == scheme
            if path.name == "1_visualize.html" and path.parent == pages:
                turn_the_plot(page)
            page.close()
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def turn_the_plot(page):
    plot = page.locator(".js-plotly-plot")
    plot.scroll_into_view_if_needed()
    page.wait_for_selector(".js-plotly-plot canvas", timeout=60_000)
    eye = "document.querySelector('.js-plotly-plot')._fullLayout.scene._scene.getCamera().eye"
    before, box = page.evaluate(eye), plot.bounding_box()
    x, y = box["x"] + box["width"] / 3, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 60, steps=10)
    page.mouse.up()
    page.wait_for_function(f"Math.abs({eye}.x - {before['x']}) > 0.1", timeout=30_000)


@full
@one_site
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_search_finds_a_word(pages):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_page()
        page.goto((pages / "search.html").as_uri() + "?q=formant")
        page.wait_for_selector("ul.search li a", timeout=30_000)
        assert any(
            "1_visualize.html" in a.get_attribute("href") for a in page.locator("ul.search li a").all()
        )
        browser.close()
