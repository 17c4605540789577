"""Kill `write_store` with SIGKILL and see what is left: python kill_store.py LIBRARY FEATURE EVERY WORK FOLDER

WORK holds a manifest. A store for another manifest is made first; then its replacement is killed before every EVERY-th of its
file operations, and at random times, each time from the same start. After each kill a whole store must be there, and the next
call must end with the bytes of an undisturbed one. Each call is a fork of this process, which has imported TensorFlow but not
used it. Prints how often it killed.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR


def tree(folder):
    """All files below a folder with the hash of their content."""
    return {
        str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def count_operations(folder, act):
    """Call `act(number)` before each operation of this process that changes files in `folder`."""
    number = 0

    def hook(event, args):
        nonlocal number
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if changes or (event == "open" and str(args[0]).startswith(str(folder)) and args[2] & WRITING):
            number += 1
            act(number)

    sys.addaudithook(hook)


def fork(library, feature, manifest, folder, act=lambda number: None):
    """Start `write_store` in a child; returns its process id."""
    if child := os.fork():
        return child
    try:
        from kws import preprocess

        preprocess.LIBRARY = library
        count_operations(folder, act)
        sys.stderr = open(os.devnull, "w")
        preprocess.write_store(folder, feature, manifest, shard=8)
        os._exit(0)
    finally:
        os._exit(1)


def ends(child):
    """The signal that ended a child, or 0; an error where it failed by itself."""
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a step failed"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(library, feature, every, work, folder):
    import kws.preprocess  # noqa: F401  so that not each child has to
    from kws.split import read_manifest

    folder, random_numbers = Path(folder), random.Random(0)
    manifest = read_manifest(work).groupby("split").head(16).reset_index(drop=True)
    args = library, feature, manifest, folder
    name = f"{feature}.bc"

    assert ends(fork(library, feature, manifest[:9], folder)) == 0
    start = folder.with_name("start")
    shutil.copytree(folder, start)
    before = tree(folder / name)

    log = folder.with_name("log")
    log.touch()
    with log.open("a") as file:
        began = time.perf_counter()
        assert ends(fork(*args, lambda number: (file.write("."), file.flush()))) == 0
        seconds = time.perf_counter() - began
    operations, after = log.stat().st_size, tree(folder)
    whole = tree(folder / name)
    assert set(after) == {f"{name}/{file}" for file in whole}, "something was left behind"

    def check(kill):
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        killed = kill()
        left = [tree(folder / n) for n in (name, f"{name}.old", f"{name}.new")]
        assert before in left[:2] or whole in left, "the old store is gone, and no new one is whole"
        assert ends(fork(*args)) == 0
        assert tree(folder) == after, "not the bytes of an undisturbed store"
        return killed

    def at_operation(number):
        def act(n):
            if n == number:
                os.kill(os.getpid(), signal.SIGKILL)

        assert ends(fork(*args, act)) == signal.SIGKILL
        return 1

    def at_random_times():
        killed = 0
        for _ in range(3):
            child = fork(*args)
            time.sleep(random_numbers.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            killed += ends(child) == signal.SIGKILL
        return killed

    chosen = sum(check(lambda n=n: at_operation(n)) for n in range(1, operations + 1, every))
    timed = sum(check(at_random_times) for _ in range(8))
    print(f"{operations} operations, killed at {chosen} of them and {timed} times at random")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
