"""The contest around a submission: clips where there are none, a board, Kaggle's command, and all results in one table."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kws.audio import same_name
from kws.infra.files import CourseError, csv_rows, read_csv
from kws.metrics import score
from kws.split import LABELS, Place


def stand_ins(place: Place, count: int = 100) -> list[Path]:
    """Spoken clips of the test split, in <work>/stand_ins under names that say nothing: for a corpus without test clips."""
    rows = place.manifest[(place.manifest.split == "test") & (place.manifest.speaker != "")]
    folder, some = place.work / "stand_ins", rows.sample(min(count, len(rows)), random_state=0)
    folder.mkdir(exist_ok=True)
    paths = [folder / f"clip_{number:03}.wav" for number in range(len(some))]
    for source, target in zip(some.path, paths):
        shutil.copyfile(source, target)
    return paths


def words_to_labels(
    probabilities: np.ndarray, words: Sequence[str], labels: Sequence[str] = LABELS
) -> np.ndarray:
    """Probabilities [n, words] of single words as probabilities [n, labels]: words that are no label count as unknown.

    >>> words_to_labels([[0.1, 0.2, 0.3, 0.4]], ["bed", "silence", "yes", "cat"], ["silence", "unknown", "yes"]).tolist()
    [[0.2, 0.5, 0.3]]
    """
    at = [labels.index(word) if word in labels else labels.index("unknown") for word in words]
    return np.asarray(probabilities) @ np.eye(len(labels))[at]


def check_submission(target: str | Path, paths: Sequence[str | Path], labels: Sequence[str] = LABELS) -> None:
    """Raise CourseError, naming the first wrong line, unless a CSV is a submission for exactly these clips in this order."""
    if not Path(target).is_file():
        raise CourseError(f"{target}: there is no such file")
    rows = csv_rows(target)
    if not rows or rows[0][1] != ["fname", "label"]:
        raise CourseError(f"{target}, line 1: must be the header fname,label")
    seen = {}
    for (number, row), path in zip(rows[1:], paths):
        name, label = (*row, "", "")[:2] if len(row) <= 2 else (",".join(row[:-1]), row[-1])
        if name in seen:
            raise CourseError(f"{target}, line {number}: {name} stands in line {seen[name]} already")
        seen[name] = number
        if same_name(name) != same_name(Path(path).name):
            raise CourseError(
                f"{target}, line {number}: {name or 'nothing'} where {Path(path).name} is expected"
            )
        if same_name(label) not in labels or len(row) > 2:
            raise CourseError(
                f"{target}, line {number}: {','.join(row[1:]) or 'nothing'} is none of the labels {', '.join(labels)}"
            )
    if len(rows) - 1 != len(paths):
        raise CourseError(f"{target}: {len(rows) - 1:,} clips where {len(paths):,} are expected")


def score_submission(
    target: str | Path, solution: str | Path, labels: Sequence[str] = LABELS
) -> pd.DataFrame:
    """Accuracy with interval, F1 and chance of a submission against a solution (fname, label, Usage), overall and by Usage.

    Raises CourseError where one of the two is no such table, or they are not of the same clips.
    """
    truth = read_csv(solution, ("fname", "label", "Usage"), text=True).map(same_name)
    theirs = read_csv(target, ("fname", "label"), text=True).map(same_name)
    if truth.fname.duplicated().any():
        raise CourseError(f"{solution}: names {truth.fname[truth.fname.duplicated()].iloc[0]} more than once")
    both = truth.merge(theirs[["fname", "label"]], on="fname", suffixes=("", "_predicted"))
    for path, column in ((solution, both.label), (target, both.label_predicted)):
        if len(wrong := column[~column.isin(labels)]):
            raise CourseError(f"{path}: {wrong.iloc[0]!r} is none of the labels {', '.join(labels)}")
    if not len(truth) or not truth.Usage.isin(["Public", "Private"]).all():
        raise CourseError(f"{solution}: the column Usage must say Public or Private")
    wanted, found = Counter(truth.fname), Counter(theirs.fname)
    if odd := (wanted - found) + (found - wanted):
        raise CourseError(
            f"{target}: must name each of the {len(truth):,} clips of {solution} once, and no other; look for {min(odd)}"
        )
    truth, predicted = (pd.Categorical(column, labels).codes for column in (both.label, both.label_predicted))
    boards = {"all": both.Usage != ""} | {usage: both.Usage == usage for usage in ("Public", "Private")}
    return pd.DataFrame(
        {board: score(truth[mask], predicted[mask]) for board, mask in boards.items() if mask.any()}
    ).T


def leaderboard(
    targets: Iterable[str | Path], solution: str | Path, labels: Sequence[str] = LABELS
) -> pd.DataFrame:
    """Several CSVs against a solution, the best private score first: DataFrame of accuracies and the private interval.

    Without private clips the public ones decide. A CSV that cannot be scored is left out, with a line that says why.
    """
    read_csv(solution, ("fname", "label", "Usage"), text=True)
    rows = []
    for target in targets:
        try:
            board = score_submission(target, solution, labels)
        except CourseError as error:
            print(f"not scored: {error}")
            continue
        scores = board.reindex(["Public", "Private"])
        rows.append(
            {
                "submission": str(target),
                "public": scores.accuracy["Public"],
                "private": scores.accuracy["Private"],
                "low": scores.low["Private"],
                "high": scores.high["Private"],
            }
        )
    table = pd.DataFrame(rows, columns=["submission", "public", "private", "low", "high"])
    names = table.submission.map(lambda path: Path(path).stem)
    repeated = names.duplicated(keep=False)  # two files of one name are told apart by their folders
    table.index = names.where(~repeated, table.submission)
    table = table.drop(columns="submission").rename_axis(None)
    by = ["private", "public"] if table.private.notna().any() else ["public"]
    return table.sort_values(by, ascending=False)


def send_submission(
    target: str | Path, message: str, contest: str = "tensorflow-speech-recognition-challenge"
) -> str:
    """Send a CSV by the kaggle command; returns what it says. CourseError where there is no command, or it refuses."""
    page = f"https://www.kaggle.com/c/{contest}/submit"
    if not shutil.which("kaggle"):
        raise CourseError(
            f"the command kaggle is missing: pip install kaggle, or send {target} by hand: {page}"
        )
    command = ["kaggle", "competitions", "submit", "-c", contest, "-f", str(target), "-m", message]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise CourseError(f"kaggle refused {target}: {reason}. By hand: {page}")
    return done.stdout.strip()


def _percent(s: dict[str, float]) -> str:
    """A score as text: accuracy, interval, n, and chance where there is more than one label."""
    chance = f", chance {s['chance']:.1%}" if s["chance"] < 1 else ""
    return f"{s['accuracy']:.1%} ({s['low']:.1%} to {s['high']:.1%}) of {s['n']:.0f}{chance}"


def summary(results: dict[str, Any], best: bool = False, target: str | Path = "") -> str:
    """What the seven notebooks have measured, a line each, from results.json; `best`: of the model `best.keras`."""
    final = results["best"] if best else results
    training, scores, board = final["training"], final["scores"], results.get("board")
    lines = {
        "corpus": f"{results['corpus']}, profile {results['profile']}, {training['train_clips']:,} training clips",
        "model": f"{training['model']}, {training['parameters']:,} parameters",
        "training": f"{training['epochs']} epochs in {training['seconds']} s",
        "validation, spoken": _percent(scores["val, spoken"]),
        "held-out voices": _percent(scores["test, spoken"]),
        "held-out words": _percent(scores["test, unseen words"])
        if "test, unseen words" in scores
        else "none",
        "held-out silence": _percent(scores["test, silence"]),
        "withheld solution": _percent(board["all"]) if board else "not known here",
    }
    for name, d in results.get("deployed", {}).items():
        lines[name] = (
            f"{d['bytes']:,} bytes, {d['ms']:.2f} ms per clip (one thread), {d['accuracy']:.1%} on held-out voices"
        )
    lines |= {"machine": training["hardware"], "submission": Path(target).as_posix()}
    if sent := results.get("submitted"):
        lines["models, views in it"] = (
            f"{', '.join(sent['models'])} by {sent['combined by']}; {', '.join(sent['views'])}"
        )
        lines["its accuracy"] = (
            f"validation {sent['val']:.1%}, test clips {sent['test']:.1%}, silence included"
        )
    if Path(results["corpus"]).name == "synthetic":
        lines["note"] = "synthetic speech: these numbers say nothing about people"
    return "\n".join(f"{name:20} {value}" for name, value in lines.items())
