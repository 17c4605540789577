"""Skip ahead: python tools/checkpoint.py N makes what notebook N needs of the ones before it.

Notebook 0 and the stores of notebook 2 take a minute or two. In place of the experiments of notebook 3 there is the table that
is kept with the course, where it is of this corpus. Notebooks 4 and 5 run where N is past them. What is there already stays.
CORPUS, PROFILE, SEED and WORDS as in the notebooks.
"""

import os
import shutil
import sys

from course import ROOT, run

from kws.infra.corpora import open_place, work_dir
from kws.infra.files import CourseError
from kws.preprocess import write_store


def run_notebook(name, work):
    """Run a notebook into `work`/notebooks. CourseError where it stops."""
    page = work / "notebooks" / f"{name}.ipynb"
    page.parent.mkdir(parents=True, exist_ok=True)
    if not run(ROOT / f"{name}.ipynb", page, page):
        raise CourseError(f"{name} stopped. The page with the whole error: {page}")


def lay_down(number, corpus, profile, seed):
    """Make what notebook `number` needs."""
    work = work_dir(corpus, profile)
    if number >= 1:
        run_notebook("0_split", work)
    if number >= 3:
        place = open_place(corpus, profile, seed)
        for feature in ("pcm", "log_mel", "mfcc"):
            write_store(place, feature)
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
    settings = (("CORPUS", "synthetic"), ("PROFILE", "sample"), ("SEED", "0"))
    corpus, profile, seed = (os.environ.get(*setting) for setting in settings)
    try:
        lay_down(int(sys.argv[1]), corpus, profile, int(seed))
    except CourseError as error:
        sys.exit(str(error))
    print(f"Notebook {sys.argv[1]} can begin.")
