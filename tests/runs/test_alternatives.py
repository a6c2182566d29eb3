"""What the clients of a run would get otherwise: which runs these are, and how the run leads."""

import dataclasses
import json

import numpy as np
import pytest
from toy import small_federation

from fedem_jax.cli import main as cli
from fedem_jax.config.fedem import FedEM
from fedem_jax.errors import UserError
from fedem_jax.evaluation.popularity import popularity
from fedem_jax.report.alternatives import alternatives_chart
from fedem_jax.runs.alternatives import run_alternatives, write_alternatives
from fedem_jax.runs.reading import read_alternatives
from fedem_jax.runs.train import run

SMALL = {
    "rounds": 2, "eval_every": 2, "dim": 2, "local_epochs": 1, "top_k": 3, "init_scale": 0.3,
    "local_optimiser": "sgd", "aggregation_fraction": 1.0,
}  # fmt: skip
BY_COHORT = FedEM(**SMALL, aggregation="cohort", merging="replace")


@pytest.fixture(scope="module")
def federation():
    whole = small_federation()
    return dataclasses.replace(whole, cohort=np.arange(whole.num_clients, dtype=np.int32) % 2)


@pytest.fixture(scope="module")
def result(federation):
    return run(BY_COHORT, federation)


@pytest.fixture(scope="module")
def found(result):
    return run_alternatives(result)


def test_the_alternatives_are_those_of_the_settings():
    assert list(BY_COHORT.alternatives()) == [
        "alone", "one table for all (FedAvg)", "its cohort's table"
    ]  # fmt: skip
    drawn = dataclasses.replace(BY_COHORT, common_share="0")
    assert "its cohort's table" not in drawn.alternatives()
    learned = FedEM(merging="once", adapter_samples="held-out", adapter_holdout=0.1)
    alone, for_all = learned.alternatives().values()
    assert (alone.merging, for_all.merging, for_all.aggregation) == ("none", "replace", "avg")
    assert {each.adapter_samples for each in (alone, for_all)} == {"trained"}


def test_each_is_a_run_with_the_same_settings(found, result, federation):
    assert [each["name"] for each in found] == [
        "fedem", "alone", "one table for all (FedAvg)", "its cohort's table", "popularity"
    ]  # fmt: skip
    assert [each["settings"] for each in found[:4]] == [
        {}, {"merging": "0", "common_share": "0"}, {"common_share": "1"}, {"common_share": "0"}
    ]  # fmt: skip
    assert found[4]["test"] == pytest.approx(
        {name: found[4]["test"][name] for name in found[4]["test"]}
        | popularity(federation, 3)["test"]
    )
    assert found[0]["test"] == result.summary["headline"]["test"]


def test_the_lead_is_paired_over_the_clients(found, result, federation):
    other = run(dataclasses.replace(BY_COHORT, common_share="0", keep="none"), federation)
    mine, theirs = (1 / each.per_client["test"].to_numpy() for each in (result, other))
    gap = mine - theirs
    error = gap.std(ddof=1) / len(gap) ** 0.5
    np.testing.assert_allclose(found[3]["lead"]["test"]["mrr"], [gap.mean(), error], atol=1e-6)
    assert found[0]["lead"]["test"]["mrr"] == [0, 0]


def test_they_are_written_read_and_drawn(found, result, tmp_path, pictures):
    assert read_alternatives(tmp_path) == []
    write_alternatives(tmp_path, found)
    assert read_alternatives(tmp_path) == json.loads(json.dumps(found))
    alternatives_chart(found, result.summary, tmp_path / "alternatives.png")
    (figure,) = pictures.values()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == "fedem"
    assert labels[1] == "alone\neach client trains by itself"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "alternatives.json: lists no alternatives"),
        ('{"alternatives": [{"name": "alone"}]}', "alternatives.json, alternative 1: lacks"),
    ],
)
def test_a_broken_file_is_named(text, said, tmp_path):
    (tmp_path / "alternatives.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_alternatives(tmp_path)


@pytest.mark.slow
def test_a_run_killed_among_its_alternatives_takes_them_up(tmp_path, capsys, monkeypatch):
    from fedem_jax.runs import alternatives

    lines = [
        f"{user},{(7 * user + 3 * step) % 29},{step}" for user in range(9) for step in range(8)
    ]
    (tmp_path / "mine.csv").write_text("user,item,timestamp\n" + "\n".join(lines) + "\n")
    flags = [
        "--dataset", "mine.csv", "--alternatives", "yes", "--rounds", "1", "--dim", "2",
        "--local-epochs", "1", "--top-k", "3", "--num-candidates", "5", "--num-negative", "1",
        "--min-interactions", "3",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(alternatives, "run_alternatives", killed)
        with pytest.raises(SystemExit):
            cli.main(["train", "--out", "here", *flags])
    hint = "go on with `fedem train --resume here --alternatives yes`"
    assert hint in capsys.readouterr().err
    assert (tmp_path / "here/summary.json").exists()
    assert not (tmp_path / "here/alternatives.json").exists()
    cli.main(["train", "--resume", "here", "--alternatives", "yes"])
    cli.main(["report", "here"])
    shown = capsys.readouterr().out
    assert shown.count("What the clients of mine.csv get from fedem") == 2
    assert (tmp_path / "here/alternatives.png").exists()
    cli.main(["train", "--resume", "here"])
    assert "has finished" in capsys.readouterr().out


def test_a_method_without_merging_says_so(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--method", "fedmf", "--alternatives", "yes"])
    assert "fedmf merges no tables" in capsys.readouterr().err
