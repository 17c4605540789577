"""Files that are there whole or not at all, notes of what they were made from, tables and texts."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from kws.infra import files
from kws.infra.files import (
    CourseError,
    course_folder,
    csv_rows,
    describe_differences,
    exclusive_write,
    file_fingerprint,
    fingerprint,
    is_made,
    link_file,
    part_of,
    read_csv,
    read_json,
    read_text,
    remove,
    replace_folder,
    restore_folder,
    save_figure,
    write_atomically,
    write_csv,
    write_json,
)


def test_two_files_do_not_share_a_part(tmp_path):
    parts = [part_of(tmp_path / name, mark) for name in ("x.json", "x.csv", "x") for mark in ("", "a", "b")]
    assert len(set(parts)) == 9 and {part.parent for part in parts} == {tmp_path}
    assert all(part.name.endswith(".part") for part in parts)


def test_a_file_stays_what_it_was_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    write_atomically(path, b"old")
    plain = Path.write_bytes

    def stopped(self, content):
        plain(self, content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(Path, "write_bytes", stopped)
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.csv", b"new")]


def test_tables_and_notes_are_read_back(tmp_path):
    write_csv(tmp_path / "x.csv", pd.DataFrame({"a": [1, 2], "b": ["x,y", "ü"]}, index=[7, 8]))
    assert read_csv(tmp_path / "x.csv").to_dict("list") == {"a": [1, 2], "b": ["x,y", "ü"]}
    values = {"a": np.float32(0.5), "n": np.int64(3), "path": Path("x/y"), "word": "größe", "pair": (1, 2)}
    write_json(tmp_path / "x.json", values)
    assert read_json(tmp_path / "x.json") == {
        "a": 0.5,
        "n": 3,
        "path": "x/y",
        "word": "größe",
        "pair": [1, 2],
    }


def test_a_note_that_is_none_is_empty(tmp_path):
    path = tmp_path / "x.json"
    assert read_json(path) == {}
    for content in (b"", b'{"a": 1', b"[1, 2]", b"3", b"\xff\xfe"):
        path.write_bytes(content)
        assert read_json(path) == {}, content
    path.unlink()
    path.mkdir()
    assert read_json(path) == {}


def test_is_made(tmp_path):
    note, settings = (
        tmp_path / "made.json",
        {"size": (20, 1), "words": ("yes", "no"), "path": Path("x"), "n": 1},
    )
    assert not is_made(note, settings) and not is_made(note, {})
    write_json(note, settings | {"seconds": 3.5})
    assert is_made(note, settings), "tuples and paths are lists and texts in the file"
    assert is_made(note, {"words": ["yes", "no"]})
    for other in ({"n": 2}, {"words": ("no", "yes")}, {"size": (20, 1, 3)}, {"more": 1}):
        assert not is_made(note, settings | other), other


def test_fingerprints():
    one = fingerprint("a", "b")
    assert len(one) == 12 and int(one, 16) >= 0 and one == fingerprint("a", "b")
    assert len({one, fingerprint("b", "a"), fingerprint("ab"), fingerprint("a", "b", ""), fingerprint()}) == 5
    names = [os.fsdecode(b"a\xff.wav"), os.fsdecode(b"a\xfe.wav"), "a\u00ff.wav"]
    assert len({fingerprint(name) for name in names}) == 3, "names that are no UTF-8"


def test_fingerprint_of_a_file_changes_with_it(tmp_path):
    path = tmp_path / "x"
    assert file_fingerprint(path) == str(path)
    path.write_text("one")
    one = file_fingerprint(path)
    stamp = path.stat().st_mtime_ns
    path.write_text("two")
    os.utime(path, ns=(stamp, stamp))
    assert file_fingerprint(path) != one, "the same size and time, set back"
    assert file_fingerprint(path) == file_fingerprint(path)


def test_differences_in_words():
    assert describe_differences({"a": 1, "b": 2}, {"b": 2, "a": 1}) == ""
    assert describe_differences({"a": 1}, {"a": 2, "b": 3}) == "a is 1, wanted 2, b is None, wanted 3"


def test_folders_are_replaced_and_brought_back(tmp_path):
    folder, part = tmp_path / "store", tmp_path / "store.part"

    def make(place, text):
        place.mkdir()
        (place / "x").write_text(text)

    def there():
        return {path.name: (path / "x").read_text() for path in tmp_path.iterdir()}

    make(part, "one")
    replace_folder(part, folder)
    make(part, "two")
    replace_folder(part, folder)
    assert there() == {"store": "two"}
    folder.rename(tmp_path / "store.old")  # killed between the two renamings
    restore_folder(folder)
    assert there() == {"store": "two"}
    make(tmp_path / "store.old", "older")  # killed after them
    make(tmp_path / "store.trash", "trash")
    restore_folder(folder)
    assert there() == {"store": "two"}
    make(tmp_path / "store.trash", "left by a kill")
    remove(folder)
    assert there() == {}
    remove(folder)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full. [0-9,]+ bytes are free"),
        (RuntimeError("ResourceExhausted: x; No space left on device"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written .*Permission denied"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written"),
    ],
)
def test_errors_of_a_disk_are_told(tmp_path, error, said):
    target = tmp_path / "x.csv"
    with pytest.raises(CourseError, match=f"x.csv: {said}") as raised, exclusive_write(target):
        raise error
    assert raised.value.__cause__ is error
    with exclusive_write(target), exclusive_write(target):
        pass  # free again, and one run may nest it


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (
        KeyError("x"),
        CourseError("mine"),
        FileNotFoundError(errno.ENOENT, "No such file"),
        KeyboardInterrupt(),
    ):
        with pytest.raises(type(error)) as raised, exclusive_write(tmp_path / "x"):
            raise error
        assert raised.value is error


HOLD = """
import sys, time
from pathlib import Path
from kws.infra.files import exclusive_write

folder = Path(sys.argv[1])
with exclusive_write(folder / "x"):
    (folder / "begun").touch()
    while not (folder / "asked").exists():
        time.sleep(0.01)
    (folder / "x").write_text("first")
"""


def test_another_run_is_waited_for(tmp_path, monkeypatch):
    told = []

    def tell(text, flush):
        told.append(text)
        (tmp_path / "asked").touch()

    monkeypatch.setattr(files, "print", tell, raising=False)
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=ROOT) as other:
        while not (tmp_path / "begun").exists():
            assert other.poll() is None
            time.sleep(0.01)
        with exclusive_write(tmp_path / "x"):
            assert (tmp_path / "x").read_text() == "first"
    assert other.returncode == 0 and told == [f"{tmp_path / 'x'}: another run is writing it; this one waits"]


def test_texts(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffgröße\r\n".encode())
    assert read_text(path).splitlines() == ["größe"]
    path.write_bytes("größe".encode("latin-1"))
    with pytest.raises(CourseError, match="x.txt: cannot be read as text in UTF-8"):
        read_text(path)
    with pytest.raises(CourseError, match="gone.txt: cannot be read"):
        read_text(tmp_path / "gone.txt")


def test_tables_that_are_none(tmp_path):
    path = tmp_path / "x.csv"
    with pytest.raises(CourseError, match="x.csv: there is no such file"):
        read_csv(path)
    for content in (b"", b'a,b\n"1,2\n3', b"a,b\n1,2,3\n1\n1,2,3,4\n", b"\xff\xfe\0\0"):
        path.write_bytes(content)
        with pytest.raises(CourseError, match="x.csv: (not a table|has no column)"):
            read_csv(path, ("fname",))
    path.write_text("file,tag\na.wav,bell\n")
    with pytest.raises(
        CourseError, match="x.csv: has no column fname, labels; its columns: file, tag. Mend it"
    ):
        read_csv(path, ("fname", "tag", "labels"))
    with pytest.raises(CourseError, match="x.csv: not a table"):
        read_csv(path, dtype={"tag": int})


def test_rows_of_any_csv(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes('\ufefffname,label\r\n\r\n"a,b","say ""ü"""\rc\n'.encode())
    assert csv_rows(path) == [(1, ["fname", "label"]), (3, ["a,b", 'say "ü"']), (4, ["c"])]
    assert read_csv(path, ("fname",), text=True).to_numpy().tolist() == [["a,b", 'say "ü"'], ["c", ""]]
    path.write_text("fname,label\na,b,c\n")
    with pytest.raises(CourseError, match="x.csv: not a table .*line 2 has 3 cells, the first 2"):
        read_csv(path, text=True)
    path.write_text("fname,label,fname\na,b,c\n")
    with pytest.raises(CourseError, match="x.csv: has more than one column fname"):
        read_csv(path, ("fname",), text=True)


def test_cells_are_the_text_that_stands_there(tmp_path):
    (tmp_path / "x.csv").write_text("fname,label\n007,NA\n,\n1e3,None\n")
    table = read_csv(tmp_path / "x.csv", ("fname",), text=True)
    assert table.to_numpy().tolist() == [["007", "NA"], ["", ""], ["1e3", "None"]]


def test_links_and_figures(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    monkeypatch.chdir(tmp_path)
    link_file("a", tmp_path / "b")
    assert (tmp_path / "b").is_symlink() and (tmp_path / "b").read_text() == "a"

    class Figure:
        def savefig(self, path, dpi):
            path.write_text(f"{dpi}")

    for nothing in (None, ""):
        save_figure(Figure(), "x", nothing)
    save_figure(Figure(), "x", tmp_path / "new/imgs")
    assert (tmp_path / "new/imgs/x.png").exists() and not (tmp_path / "x.png").exists()


def test_folder_of_the_course(tmp_path, monkeypatch):
    """From inside it and from above it, also where it is called kws; elsewhere nothing is changed."""
    course, elsewhere = tmp_path / "home/kws", tmp_path / "elsewhere"
    for folder in (course / "extras", course / "kws/infra", course / "tools", elsewhere):
        folder.mkdir(parents=True)
    (course / "tools/course.py").touch()
    monkeypatch.setattr(files, "__file__", str(course / "kws/infra/files.py"))
    for here in (course, course / "extras", course.parent, tmp_path):
        monkeypatch.chdir(here)
        assert course_folder() == course
    monkeypatch.chdir(elsewhere)
    assert course_folder() == elsewhere
    monkeypatch.setattr(files, "__file__", str(course / ".venv/site-packages/kws/infra/files.py"))
    monkeypatch.chdir(course / "extras")
    assert course_folder() == course
