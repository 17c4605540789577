"""Measurements that are kept."""

import json

import numpy as np
import pytest

from kws.infra.experiments import cached_row, read_rows, record, select_rows
from kws.infra.files import CourseError


def test_a_row_is_made_once(tmp_path):
    made, path = [], tmp_path / "rows.csv"

    def make():
        made.append(1)
        return {"accuracy": 0.5, "n": 10, "chance": 0.1}

    for seed in (0, 1, 0):
        row = cached_row(path, {"model": "dnn", "seed": seed, "manifest": "0123"}, make)
    assert row["accuracy"] == 0.5 and row["seed"] == 0 and row["date"]
    assert len(made) == len(read_rows(path)) == 2 and [p.name for p in tmp_path.iterdir()] == ["rows.csv"]
    assert read_rows(path)[0]["manifest"] == "0123", "a hash of digits is no number"
    cached_row(path, {"model": "dnn", "seed": 0, "manifest": "other"}, make)
    assert len(made) == 3, "a row of other clips was taken"


def test_no_rows_yet(tmp_path):
    assert read_rows(tmp_path / "rows.csv") == []
    (tmp_path / "rows.csv").touch()
    assert read_rows(tmp_path / "rows.csv") == []
    (tmp_path / "rows.csv").write_text('a\n"1')
    with pytest.raises(CourseError, match="rows.csv: not a table"):
        read_rows(tmp_path / "rows.csv")


def test_rows_of_an_experiment(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    with pytest.raises(CourseError, match="EXPERIMENTS=more"):
        select_rows(path, True, experiment="clips")
    for seed, accuracy in ((0, 0.5), (1, 0.7)):
        key = {"experiment": "clips", "variant": "250 clips", "epochs": 3, "seed": seed}
        cached_row(path, key, lambda accuracy=accuracy: {"accuracy": accuracy, "n": 100, "chance": 0.1})
    rows = select_rows(path, False, experiment="clips", epochs=3)
    assert rows.accuracy.tolist() == [0.5, 0.7]
    said = "kept with the course: 100 validation clips, chance 10.0%, 3 epochs"
    assert said in capsys.readouterr().out
    select_rows(path, True, experiment="clips")
    assert "measured here: 100" in capsys.readouterr().out
    with pytest.raises(CourseError, match="no rows"):
        select_rows(path, False, experiment="other")


def test_record_adds(tmp_path):
    record(tmp_path, a=1)
    assert record(tmp_path, b=np.float32(0.5)) == {"a": 1, "b": 0.5}
    assert json.loads((tmp_path / "results.json").read_text()) == {"a": 1, "b": 0.5}
