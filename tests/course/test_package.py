"""The package as others install it: the wheel, its command, its names, its docstrings."""

import ast
import doctest
import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import soundfile
from conftest import ROOT
from course.running import fresh_environment

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "kws").rglob("*.py"))
    if path.name != "_modidx.py"
]
IMPORT_ALL = f"import importlib; [importlib.import_module(name) for name in {MODULES!r}]; import kws; print(kws.__file__)"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the course, built from a copy, so that nothing is left in the course's folder."""
    source, target = tmp_path_factory.mktemp("source") / "course", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "req.txt",
        "req-scale.txt",
        "req-micro.txt",
        "requirements-dev.txt",
    ):
        shutil.copy(ROOT / name, source)
    for name in ("kws", "tools", "tests"):  # the latter two must not get into it
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "_modidx.py")
        )
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", target, source]
    done = subprocess.run(list(map(str, build)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    return next(target.glob("*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"kws"}
    assert {"kws/infra/tf14_ops.json", "kws/infra/pages_corpus.csv.xz", "kws/py.typed"} <= {*names}
    default = (ROOT / "kws/models_data/default.txt").read_text().strip()
    assert {
        f"kws/models_data/{default}/{name}"
        for name in ("model.tflite", "labels.txt", "card.json", "README.md")
    } <= {*names}
    wanted = [
        line.split("#")[0].split(";")[0].strip() for line in (ROOT / "req.txt").read_text().splitlines()
    ]
    wanted = [line.replace(" ", "") for line in wanted if line]
    required = [
        line.split(":")[1].split(";")[0].replace(" ", "")
        for line in metadata.splitlines()
        if "Requires-Dist" in line
    ]

    def name_of(requirement):
        return requirement.split(">")[0].split("<")[0].split("=")[0].split("[")[0].lower().replace("_", "-")

    assert {name_of(line) for line in wanted} <= {name_of(line) for line in required}
    assert "Provides-Extra: scale" in metadata and "Provides-Extra: dev" in metadata


def test_the_wheel_runs_in_an_environment_of_its_own(wheel, tmp_path):
    """What it needs is lent by this environment; make full installs that, too."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    scripts = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / Path(sys.executable).name
    site = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    import numpy

    (site / "zz_lent.pth").write_text(str(Path(numpy.__file__).parents[1]))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", IMPORT_ALL], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert str(tmp_path) in done.stdout, "another kws was imported"


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_wheel_installs_with_what_it_needs(wheel, tmp_path):
    bin_ = fresh_environment(tmp_path / "env", wheel, cwd=tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    soundfile.write(tmp_path / "quiet.wav", [0.0] * 16_000, 16_000)
    for command in (
        [bin_ / "python", "-c", IMPORT_ALL],
        [bin_ / "kws", "--help"],
        [bin_ / "kws", "label", "quiet.wav"],
    ):
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2_000:]


def test_names_at_the_top_are_imported_when_they_are_used():
    code = "import sys, kws; kws.read_clip; assert 'tensorflow' not in sys.modules; print(*kws.__all__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = "read_clip log_mel FEATURES ZOO make_manifest train load_predictor load_pretrained predict_clips score"
    assert {*wanted.split(), "check_submission", "KeywordDetector"} <= set(done.stdout.split())
    import kws

    assert all(getattr(kws, name) is not None for name in kws.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module):
    assert not doctest.testmod(importlib.import_module(module)).failed


def public_functions():
    """(module, function) of the public functions of hand-written modules."""
    for path in sorted((ROOT / "kws").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "AUTOGENERATED" in text or path.name in ("_modidx.py", "__init__.py"):
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield path.relative_to(ROOT).as_posix(), node


@pytest.mark.parametrize("module, function", public_functions(), ids=lambda part: getattr(part, "name", part))
def test_public_functions_have_docstrings_and_type_hints(module, function):
    assert ast.get_docstring(function), f"{module}: {function.name} has no docstring"
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    bare = [argument.arg for argument in arguments if argument.annotation is None and argument.arg != "self"]
    assert not bare and function.returns is not None, f"{module}: {function.name} lacks type hints: {bare}"
