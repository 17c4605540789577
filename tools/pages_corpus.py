"""Write kws/infra/pages_corpus.csv.xz, by which `kws corpus pages` picks its recordings: python tools/pages_corpus.py FOLDER

FOLDER is the corpus of the committed pages. What is said in test/audio is not in the table.
"""

import sys
from pathlib import Path

import pandas as pd

from kws.infra.corpora import PAGES, sound_digest
from kws.infra.manifest import name_in_list, read_lists


def pages_table(folder):
    """path, list (val, test or empty) and sound of the recordings in a folder; ValueError where two sound the same."""
    folder, lists = Path(folder), read_lists(folder)
    rows = [
        (path.relative_to(folder).as_posix(), lists.get(name_in_list(path), ""), sound_digest(path))
        for path in sorted(folder.rglob("*.wav"))
    ]
    table = pd.DataFrame(rows, columns=["path", "list", "sound"])
    if not table.sound.is_unique:
        raise ValueError(f"{folder}: {table[table.sound.duplicated(keep=False)]}")
    return table


if __name__ == "__main__":
    pages_table(sys.argv[1]).to_csv(
        PAGES, index=False, lineterminator="\n", compression={"method": "xz", "preset": 9}
    )
