"""Put the counted cases of the tests into TESTING.md, between its markers: python tools/testing.py

The numbers come from benchmarks/results/cases.csv, which the tests write where the environment variable CASES names it:
CASES=benchmarks/results/cases.csv python -m pytest
"""

import re
from pathlib import Path

import pandas as pd
from results import ROOT, table

FILE = ROOT / "benchmarks/results/cases.csv"
MARKERS = "<!-- cases: written by tools/testing.py -->", "<!-- end of cases -->"


def cases_text(file):
    """Markdown of the cases in a csv file."""
    cases, text = pd.read_csv(file), []
    for group, name in (("fault", "Faults"), ("input", "Bad and unusual input")):
        rows = cases[cases.group == group].sort_values("kind")
        lines = [[r.kind, f"{r.tried:,}", f"{r.survived:,}", f"{r.lost:,}"] for r in rows.itertuples()]
        lines.append(["all", *(f"{rows[column].sum():,}" for column in ("tried", "survived", "lost"))])
        text.append(table([name, "cases tried", "survived", "lost"], lines))
    where = cases.groupby(["hardware", "python", "tensorflow"], sort=False).date.agg(["min", "max"])
    for (hardware, python, tensorflow), dates in where.iterrows():
        when = " to ".join(sorted({dates["min"], dates["max"]}))
        text.append(f"Run on {when}: {hardware}, Python {python}, TensorFlow {tensorflow}.")
    return "\n\n".join(text)


def with_cases(page, file=FILE):
    """The text of TESTING.md with the cases in place."""
    begin, end = MARKERS
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n\n{cases_text(file)}\n\n{end}", page)


if __name__ == "__main__":
    path = Path(ROOT / "TESTING.md")
    path.write_text(with_cases(path.read_text()))
