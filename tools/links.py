"""Do the links of texts and notebooks lead somewhere? python tools/links.py [--offline]

With --offline the hosts below are taken on trust: they cannot be reached from everywhere, or ask who is calling.
"""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRUSTED = (
    "arxiv.org",
    "creativecommons.org",
    "distributed.dask.org",
    "doi.org",
    "github.com",
    "hypothesis.readthedocs.io",
    "journal.damascusuniversity.edu.sy",
    "librosa.org",
    "mlcommons.org",
    "storage.googleapis.com",
    "www.apache.org",
    "www.blosc.org",
    "www.fatiando.org",
    "www.kaggle.com",
)


def main(folder=ROOT, offline=False):
    """Check all links in the texts and notebooks of a folder; returns pytest's exit code, 0 where all lead somewhere."""
    folder = Path(folder)
    files = [*sorted(folder.glob("*.md")), *sorted(folder.glob("[0-6]_*.ipynb")), folder / "data/README.md"]
    ignored = [f"https?://{re.escape(host)}(/|$)" for host in TRUSTED] if offline else []
    options = [option for pattern in ignored for option in ("--check-links-ignore", pattern)]
    plugin = ["-p", "no:cacheprovider", "-m", "", "--rootdir", str(folder)]
    return pytest.main(["-q", "--check-links", *plugin, *options, *map(str, files)])


if __name__ == "__main__":
    sys.exit(main(offline="--offline" in sys.argv[1:]))
