"""Run notebooks cell by cell in forks of one process, so that TensorFlow is loaded once: python cells.py NOTEBOOK ...

In the current folder, with the environment of the course. Prints a line for each notebook, and stops at the first that fails.
Without arguments the notebooks are read from the standard input, line by line, and none stops it.
"""

import contextlib
import linecache
import os
import signal
import sys
import traceback

os.environ |= {"MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(path):
    """Run the cells of a notebook; what its first error says, or an empty text."""
    import nbformat

    names = {"__name__": "__main__"}
    for number, cell in enumerate(nbformat.read(path, 4).cells):
        if cell.cell_type == "code":
            where, lines = f"<{path}, cell {number}>", cell.source.splitlines(keepends=True)
            linecache.cache[where] = (
                len(cell.source),
                None,
                lines,
                where,
            )  # TensorFlow reads its functions' source
            try:
                exec(compile(cell.source, where, "exec"), names)
            except BaseException as error:
                traceback.print_exc()
                return f"cell {number}: {type(error).__name__}: {error}"
    return ""


def main(paths):
    import kws.infra.runs
    import kws.submission
    import kws.training
    import kws.visualize  # noqa: F401

    for path in paths or map(str.strip, sys.stdin):
        sys.stdout.flush()
        if not (child := os.fork()):
            os.setpgid(0, 0)
            stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            error = run(path).replace("\n", " ")
            os.write(stdout, f"{path}: {error or 'ran through'}\n".encode())
            os._exit(1 if error else 0)
        status = os.waitpid(child, 0)[1]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # its worker processes hold the pipes of this one
        if status and paths:
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
