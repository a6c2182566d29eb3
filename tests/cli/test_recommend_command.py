"""`fedem recommend` and `fedem export`, on the embedded federation."""

import numpy as np
import pandas as pd
import pytest

from fedem_jax.cli.main import main
from fedem_jax.runs.opened import open_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    main(["train", "--method", "fedmf", "--rounds", "2", "--dim", "4", "--out", str(path)])
    return path


def test_lists_are_shown_or_written(finished, tmp_path, capsys):
    capsys.readouterr()
    expected, out = open_run(finished).recommend(k=3), tmp_path / "recs.csv"
    main(["recommend", str(finished), "--k", "3", "--out", str(out)])
    users = expected["user"].nunique()
    assert f"recs.csv: {3 * users:,} lines for {users:,} users." in capsys.readouterr().out
    written = pd.read_csv(out)
    assert written["item"].tolist() == expected["item"].tolist()

    first = expected["user"].unique()[:2].tolist()
    main(["recommend", str(finished), "--k", "3", "--users", *map(str, reversed(first))])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = [line[-2:] for line in lines if len(line) in (3, 4) and line[-3].isdecimal()]
    mine = pd.concat([expected[expected["user"] == user] for user in reversed(first)])
    assert shown == [[str(row.item), f"{row.score:.4f}"] for row in mine.itertuples()]


def test_every_flag_reaches_the_run(finished, tmp_path, monkeypatch, capsys):
    asked = {}

    class Asked:
        config = open_run(finished).config

        def recommend(self, *args):
            asked["recommend"] = args
            return pd.DataFrame({"user": [1], "rank": [1], "item": [2], "score": [0.5]})

    def write(result, *args):
        asked["export"] = args
        return finished / "summary.json"

    monkeypatch.setattr("fedem_jax.runs.opened.open_run", lambda path: Asked())
    monkeypatch.setattr("fedem_jax.runs.export.export", write)
    out = str(tmp_path / "x.trec")
    main(["recommend", "r", "--k", "7", "--users", "a", "b", "--seen", "include", "--round", "last",
          "--out", out])  # fmt: skip
    assert asked["recommend"] == (["a", "b"], 7, False, "last")
    assert (tmp_path / "x.trec").read_text() == "1 Q0 2 1 0.5 fedmf\n"
    main(["export", "r", "--out", "o", "--format", "safetensors", "--round", "last"])
    assert asked["export"][1:] == ("safetensors", "last")
    assert str(asked["export"][0]) == "o"


@pytest.mark.parametrize(("args", "sentence"), [
    (["recommend", "nowhere"], "nowhere: there is no such run directory."),
    (["recommend", "RUN", "--users", "nobody"], "users: 'nobody' is none of the"),
    (["recommend", "RUN", "--out", "x.txt"], "out: x.txt ends in none of .csv, .parquet, .trec"),
    (["export", "RUN"], "out: names no file; give one, such as `--out model.npz`."),
    (["sweep", "--vary", "dim=4,8", "--start", "x"], "start: trials start from the initial"),
    (["sweep", "--vary", "dim=4,8", "--patience", "2"], "patience: trials run side by side"),
    (["train", "--method", "fedem", "--start", "RUN", "--out", "OUT"], "is a run of fedmf, not"),
])  # fmt: skip
def test_mistakes_are_one_sentence(finished, tmp_path, capsys, args, sentence):
    places = {"RUN": str(finished), "OUT": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as ended:
        main([places.get(arg, arg) for arg in args])
    assert ended.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_parameters_are_exported(finished, tmp_path, capsys):
    main(["export", str(finished), "--out", str(tmp_path / "model.npz")])
    assert "model.npz: " in capsys.readouterr().out
    with np.load(tmp_path / "model.npz") as arrays:
        assert arrays["server.items"].shape[1] == 4


@pytest.mark.slow
def test_a_run_that_starts_from_another_says_so(finished, tmp_path, capsys):
    args = ["--method", "fedmf", "--rounds", "1", "--dim", "4", "--out", str(tmp_path / "warm")]
    main(["train", *args, "--start", str(finished)])
    assert str(finished) in "".join(capsys.readouterr().out.split("\n"))
    warm = open_run(tmp_path / "warm")
    assert warm.summary["start"]["run"] == warm.config.start == str(finished)
