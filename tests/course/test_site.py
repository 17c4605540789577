"""The site of the executed notebooks, as a browser sees it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest
from conftest import ROOT
from course.running import NOTEBOOKS, copy_course

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


URLS = '\n[project.urls]\nRepository = "https://github.com/{}"\n'


def with_address(address, folder):
    """Write the course's pyproject.toml with this address into a folder, which is returned."""
    text = (ROOT / "pyproject.toml").read_text() + URLS.format(address)
    (folder / "pyproject.toml").write_text(text)
    return folder


@pytest.mark.skipif(badges.repository(), reason="the address of the course is set")
def test_badges(tmp_path):
    copy_course(tmp_path)
    shutil.copy(ROOT / "README.md", tmp_path)
    with pytest.raises(SystemExit, match="OWNER/NAME"):
        badges.main(tmp_path)

    def written(address):
        badges.main(with_address(address, tmp_path))
        return {path: path.read_text() for path in (tmp_path / "README.md", *tmp_path.rglob("*.ipynb"))}

    once = written("someone/course")
    readme = once[tmp_path / "README.md"]
    assert readme.count("colab.research.google.com/github/someone/course/blob/main/") == 7
    assert "mybinder.org/v2/gh/someone/course/main" in readme and readme.startswith("# ")
    texts = "".join(written("another/course.git").values())
    assert "someone/" not in texts and "course.git" not in texts
    assert once == written("someone/course")


@pytest.mark.skipif(not badges.repository(), reason="the course has no address yet")
def test_badges_are_of_the_address(tmp_path):
    for path in [*ROOT.glob("README.md"), *ROOT.glob("pyproject.toml"), *NOTEBOOKS]:
        shutil.copy(path, tmp_path)
    badges.main(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_text() == (ROOT / path.name).read_text(), f"run python tools/badges.py: {path.name}"


def test_set_up_cell_works_in_colab_only(tmp_path, monkeypatch):
    source = badges.set_up("someone/course", 3).replace("/content", tmp_path.as_posix())
    course, done = tmp_path / "course", []

    def run(program, check, cwd=None):
        done.append(program[1:3])
        (course / "tools").mkdir(parents=True, exist_ok=True)
        (course / "tools/course.py").touch()

    def started_in(folder):
        done.clear()
        monkeypatch.chdir(folder)
        exec(source, {})
        return done

    monkeypatch.setattr(subprocess, "run", run)
    assert started_in(tmp_path) == []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    first = [["clone", "-q"], ["-m", "pip"], ["tools/checkpoint.py", "3"]]
    assert started_in(tmp_path) == first and Path.cwd() == course
    assert started_in(tmp_path) == first[1:], "after a restart"
    assert started_in(course) == [], "run by tools/course.py"


@full
@pytest.mark.parametrize("address", [None, "someone/course"])
def test_launch_buttons(address, tmp_path):
    """A site of two pages: buttons where the course has an address, and none where it has not."""
    course = tmp_path / "course"
    for name in ("docs", "imgs", "tools"):
        shutil.copytree(ROOT / name, course / name)
    (course / "extras").mkdir()
    shutil.copy(ROOT / "solutions/0_split.ipynb", course / "extras/page.ipynb")
    (course / "README.md").write_text("# Course\n")
    (course / "pyproject.toml").write_text(URLS.format(address) if address else "")
    program = [sys.executable, "-m", "sphinx", "-q", "-c", "docs", ".", tmp_path / "html"]
    subprocess.run(program, cwd=course, check=True)
    found = [
        f"https://{link}" in (tmp_path / "html/extras/page.html").read_text()
        for link in (
            "colab.research.google.com/github/someone/course/blob/main/extras/page.ipynb",
            "mybinder.org/v2/gh/someone/course/main?urlpath=lab/tree/extras/page.ipynb",
        )
    ]
    assert found == [bool(address)] * 2


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
