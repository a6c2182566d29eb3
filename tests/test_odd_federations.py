"""Federations at the edge of what makes sense: they run, or one sentence says why not."""

import dataclasses

import numpy as np
import pytest
from toy import permuted, small_federation

from fedem_jax.analysis.bottleneck import bottleneck
from fedem_jax.cli import main as cli
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.protocol import preset
from fedem_jax.config.registry import METHODS
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.readers import read
from fedem_jax.data.split import split
from fedem_jax.data.synthetic import synthetic
from fedem_jax.errors import UserError
from fedem_jax.runs.train import run

SMALL = {
    "dim": 2, "rounds": 2, "eval_every": 2, "local_epochs": 1, "batch_size": 16, "num_negative": 2,
    "top_k": 2, "size_classes": 1, "num_clusters": 2, "aggregation_fraction": 0.5,
}  # fmt: skip
"""Where a method has such a setting."""
NOBODY = 1e-9
"""A share of the clients that is less than one of them."""


def config_of(method: str, **changes):
    known = {field.name for field in dataclasses.fields(METHODS[method].settings)}
    values = {name: value for name, value in (SMALL | changes).items() if name in known}
    return METHODS[method].settings(**values)


def made(histories: dict, protocol="leak-free", **switches):
    """A federation of users with these items, oldest first."""
    rows = [(user, item, 1, t) for user, own in histories.items() for t, item in enumerate(own)]
    switches = {"num_candidates": 2, "min_interactions": 3} | switches
    return split(Interactions.of(*zip(*rows, strict=True)), preset(protocol, **switches), 0, "odd")


def one_client():
    """It has the items of others to be asked about, but nobody to learn from."""
    return permuted(small_federation(), np.array([2]))


def few_items():
    """Two items more than candidates: those two are all that a user may have."""
    return made({0: [1, 2, 1], 1: [3, 4, 3], 2: [1, 4, 4]}, "paper")


def one_giant():
    """One client with 90 % of the data; all moments tied; labels with gaps; a user who has had a
    single item, again and again."""
    histories = {0: [10**9 + 7 * item for item in range(200)], 6: [5] * 4}
    histories |= {u: [3 * u, 3 * u + 1, 3 * u + 2, 5] for u in range(1, 6)}
    rows = [(user, item, 1, 0) for user, own in histories.items() for item in own]
    rules = preset("leak-free", num_candidates=2, min_interactions=3, repeats="keep")
    return split(Interactions.of(*zip(*rows, strict=True)), rules, 0, "giant")


def ordinary():
    return small_federation()


ODD = {
    "one client": (one_client, {}),
    "two items beyond the candidates": (few_items, {}),
    "one giant": (one_giant, {"lr_network": 0.01}),  # ten times less than gpfedrec explodes at
    "a set of one": (ordinary, {"aggregation_fraction": NOBODY}),
    "a share that selects nobody": (ordinary, {"client_fraction": NOBODY}),
}


def test_the_giant_is_as_odd_as_it_should_be():
    federation = one_giant()
    sizes = np.diff(federation.offsets) + 2
    assert sizes.max() > 0.89 * sizes.sum()
    assert federation.cleaning["tied_users"] == federation.num_clients == 7
    assert federation.num_items == 215
    repeating = int(np.flatnonzero(federation.user_ids == 6)[0])
    assert len(set(federation.train_items(repeating))) == 1
    assert federation.test_item[repeating] == federation.train_items(repeating)[0]


def assert_trained(method: str, name: str) -> None:
    """Finite numbers for every client that took part, or the one refusal that is meant."""
    make, changes = ODD[name]
    federation = make()
    if method == "gpfedrec" and "client_fraction" in changes:
        with pytest.raises(UserError, match="client_fraction: 1e-09 leaves clients out"):
            config_of(method, **changes)
        return
    result = run(config_of(method, **changes), federation)
    (record,) = result.records
    assert np.isfinite(record["loss"])
    for part in ("val", "test", "val_full", "test_full"):
        assert 0 <= record[part]["hr@2"] <= 1
    assert len(result.per_client) == federation.num_clients


@pytest.mark.parametrize("name", ["one giant", "a share that selects nobody"])
@pytest.mark.slow_but("one giant")
def test_local_only_trains_on_odd_federations(name):
    assert_trained("local-only", name)


def test_fedmf_trains_with_two_items_beyond_the_candidates():
    assert_trained("fedmf", "two items beyond the candidates")


def test_fedem_trains_with_one_client_that_aggregates_with_itself():
    assert_trained("fedem", "one client")


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_odd_federations(method, name):
    assert_trained(method, name)


@pytest.mark.parametrize("share", [NOBODY, 0.14])
def test_a_share_that_selects_nobody_selects_one(share):
    config = FedEM(client_fraction=share, aggregation_fraction=share)
    assert config.round_sizes(7) == (1, 1)


# --- refused --------------------------------------------------------------------------------------

REFUSED = {
    "a user alone": ({0: range(9)}, {}, "only 0 items lie outside the history of user '0'"),
    "a client with all items": (
        {0: range(9), 1: range(4)}, {}, "only 0 items lie outside the history of user '0'",
    ),
    "all users the same items": (
        {0: range(9), 1: range(9)}, {}, "only 0 items .* draws 4 candidates .* leave this user out",
    ),
    "two items beyond the candidates": (
        {0: [1, 2, 3], 1: [3, 4, 1]}, {"candidates": "shared"}, "lower num_candidates to at most 1",
    ),
    "repeats alone": ({0: [5] * 9, 1: [6] * 9}, {}, "nothing is left .* 16 repeated ones"),
    "too short": ({0: [1, 2], 1: [3, 4]}, {"min_interactions": 2}, "raise min_interactions to at"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused(name):
    histories, switches, words = REFUSED[name]
    with pytest.raises(UserError, match=words) as caught:
        made(histories, **switches)
    assert "\n" not in str(caught.value)


def test_a_list_as_long_as_the_ranking_is_refused_by_all_commands(tmp_path, monkeypatch, capsys):
    """HR@10 among 6 candidates would be 1 whatever is trained; nothing is compiled or written."""
    words = r"top_k: among 6 candidates .* HR@7 is always 1; give a smaller top_k"
    with pytest.raises(UserError, match=words):
        run(config_of("fedem", top_k=7), small_federation())
    with pytest.raises(UserError, match=words):
        bottleneck(config_of("fedem", top_k=7), small_federation())
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "--num-candidates", "6", "--top-k", "7", "--out", "x"])
    assert exit_.value.code == 2
    assert "HR@7 is always 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- many -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["local-only", "fedmf", "fedem"])
def test_a_hundred_thousand_clients(method):
    """Ten interactions each; docs/robustness.md has memory and time."""
    interactions, _ = synthetic(100_000, 300, sizes=(10, 10))
    federation = split(interactions, preset("leak-free"), 0, "many")
    assert federation.num_clients == 100_000
    changes = {"top_k": 10, "aggregation_fraction": 0.001, "client_fraction": 0.1}
    result = run(config_of(method, **changes), federation)
    assert np.isfinite(result.records[-1]["loss"])
    assert len(result.per_client) == 100_000


@pytest.mark.slow
def test_a_million_rows_from_the_file_to_the_split(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(1, 10_001, 10**6), rng.integers(1, 5001, 10**6)])
    path = tmp_path / "f.csv"
    path.write_text("".join(f"{u},{i},4.5,{t}\n" for t, (u, i) in enumerate(rows.T.tolist())))
    interactions = read(path)
    assert (interactions.frame[["user", "item"]].to_numpy() == rows.T).all()
    federation = split(interactions, preset("leak-free"), 0, "f")
    assert federation.num_clients == 10_000
