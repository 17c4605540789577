"""Skip ahead: python tools/checkpoint.py N makes what notebook N needs of the ones before it.

Notebook 0 and the stores of notebook 2 take a minute or two. In place of the experiments of notebook 3 there is the table that
is kept with the course, where it is of this corpus. Notebooks 4 and 5 run where N is past them. What is there already stays.
CORPUS, PROFILE, SEED and WORDS as in the notebooks.
"""

import os
import shutil
import sys

from course import ROOT, run

from kws.preprocess import write_store
from kws.split import CorpusError, read_manifest, work_dir


def run_notebook(name, work):
    """Run a notebook into `work`/notebooks. CorpusError where it stops."""
    page = work / "notebooks" / f"{name}.ipynb"
    page.parent.mkdir(parents=True, exist_ok=True)
    if not run(ROOT / f"{name}.ipynb", page, page):
        raise CorpusError(f"{name} stopped. The page with the whole error: {page}")


def lay_down(number, work):
    """Make in `work` what notebook `number` needs."""
    if number >= 1:
        run_notebook("0_split", work)
    if number >= 3:
        for feature in ("pcm", "log_mel", "mfcc"):
            write_store(work, feature, read_manifest(work))
    kept = ROOT / "benchmarks/results" / work.name / "experiments.csv"
    if number >= 4 and not (work / "experiments.csv").exists():
        if kept.exists():
            shutil.copy(kept, work / "experiments.csv")
        else:
            run_notebook("3_sample_experiments", work)
    for name in ("4_full_training", "5_freeze_and_pi")[: max(0, number - 4)]:
        run_notebook(name, work)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in list("0123456"):
        sys.exit(__doc__)
    try:
        lay_down(
            int(sys.argv[1]),
            work_dir(os.environ.get("CORPUS", "synthetic"), os.environ.get("PROFILE", "sample")),
        )
    except CorpusError as error:
        sys.exit(str(error))
    print(f"Notebook {sys.argv[1]} can begin.")
