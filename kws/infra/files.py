"""Files that are there whole or not at all, locks, notes that say what a file was made from, and errors a person can act on."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


MORE_FILES = "Allow more: ulimit -n 1024"


class CourseError(ValueError):
    """Something that a person can put right. The message names the file and what to do."""


def course_folder() -> Path:
    """The folder of the course, where the current one is in it or above it; else the current one.

    Jupyter starts a kernel in the notebook's folder, VS Code or a server elsewhere perhaps further up. `data/` and
    `benchmarks/` are found from the course's folder.
    """
    here, package = Path.cwd(), Path(__file__).resolve().parents[2]
    below = [package] if here in package.parents else []
    return next(
        (folder for folder in (here, *here.parents, *below) if (folder / "tools/course.py").exists()), here
    )


@contextlib.contextmanager
def stderr_to(file: IO) -> Iterator[None]:
    """What libraries in C say on stderr of the machine goes to an open file meanwhile."""
    saved = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Nothing of what libraries in C say on stderr of the machine: they do it before they can be asked not to."""
    with open(os.devnull, "wb") as nowhere, stderr_to(nowhere):
        yield


def check_number(name: str, value: float, least: float, below: float = math.inf) -> None:
    """CourseError unless a number is at least `least` and below `below`; NaN is neither."""
    if not least <= value < below:
        limit = "" if below == math.inf else f", less than {below:g}"
        raise CourseError(f"{name}={value}: {least:g} or more{limit} is wanted")


def part_of(path: str | Path, mark: str = "") -> Path:
    """Where a file or folder is made before it gets its name: <name>.part beside it; `mark` keeps several makers apart."""
    path = Path(path)
    return path.with_name(f"{path.name}{mark and '-' + mark}.part")


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write bytes to a file that is there whole or not at all."""
    part = part_of(path)
    part.write_bytes(content)
    part.replace(path)


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table, without its index, to a CSV that is there whole or not at all; what is no text in it as an escape."""
    write_atomically(path, table.to_csv(index=False).encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, values: Any) -> None:
    """Write values as JSON to a file that is there whole or not at all; paths become text, numpy's numbers numbers."""
    text = json.dumps(values, indent=1, default=_plain, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode("utf-8", "backslashreplace"))  # as JSON writes what is no text


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value.item() if hasattr(value, "item") else float(value)


def remove(folder: str | Path) -> None:
    """Delete a folder; killed in the middle it is gone under its name, and never half there."""
    folder = Path(folder)
    trash = folder.with_name(folder.name + ".trash")
    shutil.rmtree(trash, ignore_errors=True)
    if folder.exists():
        folder.rename(trash)
        shutil.rmtree(trash)


def replace_folder(part: Path, folder: Path) -> None:
    """Give the folder `part` the name `folder`; what has that name stays as <name>.old until the new one is there."""
    old = folder.with_name(folder.name + ".old")
    remove(old)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    remove(old)


def restore_folder(folder: Path) -> None:
    """Bring back what `replace_folder` had put aside when it was killed between its two renamings, and tidy up."""
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    remove(old)
    shutil.rmtree(folder.with_name(folder.name + ".trash"), ignore_errors=True)


@contextlib.contextmanager
def exclusive_write(target: str | Path) -> Iterator[None]:
    """For a step that writes the file or folder `target`: one run at a time, and clear errors.

    Another run that writes the same is waited for: the system frees a lock when its process is gone, however it ended.

    Raises
    ------
    CourseError: the disk is full or cannot be written to.
    """
    target = Path(target)
    user = getattr(os, "getuid", int)()  # Windows has none: 0
    digest = hashlib.sha1(str(target.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"kws-{user}-{digest}.lock", is_singleton=True)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{target}: another run is writing it; this one waits", flush=True)
            lock.acquire()
        yield
    except CourseError:
        raise
    except Exception as error:
        if translated := _disk_error(error, target):
            raise translated from error
        raise
    finally:
        lock.release()


def _disk_error(error: Exception, target: Path) -> CourseError | None:
    """The CourseError for an error that comes from a disk that is full or must not be written to; None for any other."""

    def is_one_of(*numbers):  # TensorFlow and HDF5 have errors of their own, with the system's words in them
        return getattr(error, "errno", None) in numbers or any(os.strerror(n) in str(error) for n in numbers)

    if is_one_of(errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)):
        free = shutil.disk_usage(next(p for p in target.resolve().parents if p.exists())).free
        return CourseError(
            f"{target}: the disk is full. {free:,} bytes are free. Make room and do the same again: it goes on where it "
            "stopped, and what was there before is untouched"
        )
    if is_one_of(errno.EACCES, errno.EPERM, errno.EROFS):
        return CourseError(
            f"{target}: cannot be written ({error}). Allow it, or copy the course to a folder of your own, and do the "
            "same again"
        )
    if is_one_of(errno.EMFILE, errno.ENFILE):
        return CourseError(f"{target}: too many files are open. {MORE_FILES}, and do the same again")
    return None


def rows_in_file(path: Path, width: int, blocks_after: Callable[[int], Iterable[np.ndarray]]) -> np.ndarray:
    """float32 [n, width] kept in a plain file; where it is not there, or not whole, it is made and the older ones removed.

    `blocks_after(done)` yields the blocks of rows that follow the first `done`. It is resumed where it was stopped.
    Files of one kind have a name in common, up to its first hyphen.
    """
    import numpy as np

    part = part_of(path)
    with exclusive_write(path):
        if not path.exists():
            for old in path.parent.glob(path.name.split("-")[0] + "-*"):
                if old != part:
                    old.unlink()
            with open(part, "ab") as file:
                done = file.tell() // (4 * width)
                file.truncate(done * 4 * width)
                for block in blocks_after(done):
                    file.write(block.tobytes())
            part.replace(path)
    return np.fromfile(path, "float32").reshape(-1, width)


# is it still the same?


def read_json(path: str | Path) -> dict:
    """The dict in a JSON file; empty where there is no file, or nothing whole in it."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def describe_differences(found: dict, wanted: dict) -> str:
    """What differs between two dicts, in words: empty where nothing does.

    >>> describe_differences({"epochs": 2, "seed": 0}, {"epochs": 3, "seed": 0})
    'epochs is 2, wanted 3'
    """
    keys = [key for key in found | wanted if found.get(key) != wanted.get(key)]
    return ", ".join(f"{key} is {found.get(key)}, wanted {wanted.get(key)}" for key in keys)


def is_made(note: str | Path, settings: dict) -> bool:
    """Whether the note (a JSON file) beside a product says that it was made with these settings, whatever else it says."""
    found = read_json(note)
    wanted = json.loads(json.dumps(settings, default=_plain))  # tuples become lists, as in the file
    return bool(found) and all(found.get(key) == value for key, value in wanted.items())


def fingerprint(*parts: Any) -> str:
    """Twelve hex digits that change when the text of any part does."""
    return hashlib.sha1("\n".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def file_fingerprint(path: str | Path) -> str:
    """Path, size, and times of change of a file as text: the path alone where there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return str(path)
    return f"{path} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def file_digest(path: str | Path) -> str:
    """Forty hex digits of what is in a file: another file of that name has others. CourseError where there is none."""
    if not Path(path).is_file():
        raise CourseError(f"{path}: there is no such file")
    return hashlib.sha1(Path(path).read_bytes()).hexdigest()


# tables and texts


def read_text(path: str | Path) -> str:
    """Text of a UTF-8 file, with or without a byte order mark; CourseError where it is something else."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path}: cannot be read as text in UTF-8 ({error}). Save it as such") from error


def csv_rows(path: str | Path) -> list[tuple[int, list[str]]]:
    """Rows of a CSV: the number of the line where each ends, and its cells as text. Empty lines are left out.

    Cells may be quoted, lines end in any way, a byte order mark may come first. CourseError where it is something else.
    """
    try:
        rows = csv.reader(io.StringIO(read_text(path)), strict=True)
        return [(rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise CourseError(
            f"{path}: not a table ({error}). Mend it, or delete it and make it again"
        ) from error


def read_csv(
    path: str | Path, columns: Sequence[str] = (), text: bool = False, **options: Any
) -> pd.DataFrame:
    """`pandas.read_csv`; with `text` every cell is the text that stands there, also an empty one: `csv_rows` as a table.

    The numbers of their lines are in its attrs["lines"] then.

    Raises
    ------
    CourseError: the file cannot be read, lacks one of `columns`, or has it twice. The message names it.
    """
    import pandas as pd  # here, since it takes long and few need it

    again = "Mend it, or delete it and make it again"
    if not Path(path).is_file():
        raise CourseError(f"{path}: there is no such file")
    if text:
        (_, names), *rows = csv_rows(path) or [(1, [])]
        if ragged := [(line, row) for line, row in rows if len(row) > len(names)]:
            line, row = ragged[0]
            raise CourseError(
                f"{path}: not a table (line {line} has {len(row)} cells, the first {len(names)}). {again}"
            )
        table = pd.DataFrame(
            [row + [""] * (len(names) - len(row)) for _, row in rows], columns=names, dtype=str
        )
        table.attrs["lines"] = [line for line, _ in rows]
    else:
        try:
            table = pd.read_csv(path, **options)
        except (OSError, ValueError, OverflowError) as error:
            reason = str(error).splitlines()[0]
            raise CourseError(f"{path}: not a table ({reason}). {again}") from error
        names = list(table)
    if missing := [column for column in columns if column not in names]:
        present = ", ".join(map(str, names))
        raise CourseError(f"{path}: has no column {', '.join(missing)}; its columns: {present}. {again}")
    if repeated := [column for column in names if column and names.count(column) > 1]:
        raise CourseError(f"{path}: has more than one column {repeated[0]}. {again}")
    return table


def link_file(source: str | Path, target: Path) -> None:
    """Link `target` to `source`, or copy it where the system allows no links."""
    try:
        target.symlink_to(Path(source).resolve())
    except OSError:
        shutil.copy(source, target)


def save_figure(figure: Any, name: str, folder: str | Path | None, dpi: int = 90) -> None:
    """Write a matplotlib figure as `folder`/<name>.png; do nothing where `folder` is empty or None."""
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        figure.savefig(Path(folder) / f"{name}.png", dpi=dpi)
