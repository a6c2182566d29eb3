"""`fedem sweep`: flags, what is shown, what is left behind."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
from test_sweep import FEDERATION, Slope, slope

from fedem_jax import cli, presets, sweep_cli
from fedem_jax.methods import METHODS
from fedem_jax.search_space import space
from fedem_jax.settings import SETTINGS, FedEM
from fedem_jax.settings_file import load_settings
from fedem_jax.sweep_report import at_an_edge


@pytest.fixture(autouse=True)
def method(monkeypatch, tmp_path):
    """`slope` among the methods, a small federation, an empty working directory."""
    monkeypatch.setitem(METHODS, "slope", slope)
    monkeypatch.setitem(SETTINGS, "slope", Slope)
    monkeypatch.setattr(
        "fedem_jax.data.sources.federation_of",
        lambda config: dataclasses.replace(FEDERATION, seed=config.seed),
    )
    monkeypatch.setattr(sweep_cli, "use_all_cores", lambda: None)
    monkeypatch.setattr(sweep_cli, "cache_programs", lambda: None)
    monkeypatch.chdir(tmp_path)


SWEEP = "sweep --method slope --rounds 4 --seeds 2 --out s --vary speed=0.1,1,20 --vary dim=4,8"


def test_a_sweep_says_what_is_to_come_and_leaves_the_winner(tmp_path, capsys, monkeypatch):
    cli.main(SWEEP.split())
    shown = capsys.readouterr().out
    for words in (
        "7 clients, 40 items",
        "6 settings x 2 seeds = 12 trials of 4 rounds",
        "12 trials, rounds 1 to 4: 2 programs to compile, 12 calls, 1 side by side",
        "12/12",
        "6 settings, 12 trials: 4 diverged",
        "The best dim is the smallest that was searched",
        "speed=1, dim=4: test HR@5",
        "fedem train --config s/best.json",
    ):
        assert words in shown
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "best.json", "curves.parquet", "effects.png", "settings.png", "sweep.json", "table.md",
        "trials.csv", "trials.parquet",
    ]  # fmt: skip
    best = load_settings(tmp_path / "s" / "best.json")
    assert (best.method, best.rounds, best.seed, best.out) == ("slope", 4, 0, "")
    assert best == dataclasses.replace(Slope(), rounds=4, dim=4, speed=1.0)

    # the entry for the presets is one
    table = (tmp_path / "s" / "table.md").read_text()
    assert f"`fedem {SWEEP}`" in table
    (entry,) = re.findall(r"```python\n(.*?)\n```", table, re.DOTALL)
    assert "# fedem sweep --method slope" in entry
    with monkeypatch.context() as patch:
        patch.setattr(presets, "TUNED", eval("{" + entry + "}", {}))
        assert presets.preset("tuned", dataset="synthetic", method="slope") == best

    cli.main(SWEEP.split())  # nothing is left to run
    again = capsys.readouterr().out
    assert "programs to compile" not in again
    assert "speed=1, dim=4: test HR@5" in again
    with pytest.raises(SystemExit) as end:
        cli.main([*SWEEP.split(), "--top-k", "4"])
    assert end.value.code == 2
    assert "holds another sweep (config top_k 5, now 4)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "best", "edge"),
    [
        ("lr_embedding=0.01,0.1", 0.1, {"lr_embedding": "largest"}),
        ("lr_embedding=0.01,0.1", 0.01, {"lr_embedding": "smallest"}),
        ("lr_embedding=0.01,0.1,1", 0.1, {}),
        ("lr_embedding=0.1", 0.1, {}),
        ("local_epochs=2,5", 2, {"local_epochs": "smallest"}),
        ("local_epochs=1,5", 1, {}),  # no fewer
        ("aggregation_fraction=0.5,1", 1.0, {}),  # no more
        ("alpha=0,0.5", 0.0, {}),
        ("merging=0.5,replace", "replace", {}),
        ("lr_embedding=log:0.01:1", 0.01, {}),
    ],
)
def test_a_winner_at_the_edge_of_what_was_searched_is_called_so(values, best, edge):
    (varied,) = space(FedEM, [values])
    winner = dataclasses.replace(FedEM(), **{varied.name: best})
    assert at_an_edge(SimpleNamespace(sweep=SimpleNamespace(varied=[varied]), best=winner)) == edge


def test_an_interrupted_sweep_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedem_jax.sweep_progress.Watch.chunk", interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main(SWEEP.split())
    assert end.value.code == 130
    said = " ".join(capsys.readouterr().err.split())
    assert "s keeps the finished trials; the same command goes on" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sweep"], "nothing is varied"),
        (["sweep", "--vary", "dim=4,8", "--search", "random"], "give --trials N"),
        (["sweep", "--vary", "alfa=1"], "did you mean 'alpha'"),
    ],
)
def test_mistakes_are_one_sentence(args, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(args)
    assert end.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said


def test_pictures_of_all_kinds_of_values_can_be_drawn(tmp_path):
    """Ranges, lists of numbers, words; trials that ended early."""
    from fedem_jax.sweep_plots import effects_chart, settings_chart
    from fedem_jax.sweeping import sweep

    vary = ["speed=log:0.1:4", "init_scale=0.5:2", "bce=logit,probability"]
    config = Slope(rounds=4)
    result = sweep(config, vary, search="random", trials=6, halving=2)
    assert "stopped early" in set(result.trials["status"])
    for draw in (effects_chart, settings_chart):
        path = tmp_path / "picture.png"
        draw(result, path)
        content = np.frombuffer(path.read_bytes()[16:24], ">u4")
        assert content[0] > content[1] > 500  # wider than high, in pixels
