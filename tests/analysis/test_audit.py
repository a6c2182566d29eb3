"""`fedem audit`: its verdicts, its counts against brute force, its exit statuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from scipy.stats import binom, binomtest
from toy import small_federation

from fedem_jax.analysis.audit import audit, drawn_as_negative, renumbered
from fedem_jax.analysis.verdict import DECISIVE, Audit, Figures, Share
from fedem_jax.cli import main as cli
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.protocol import preset
from fedem_jax.config.settings import LocalOnly
from fedem_jax.data.sources import load
from fedem_jax.errors import UserError
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.train import run

QUICK = LocalOnly(rounds=12, eval_every=12, top_k=3, dim=4, size_classes=1)


def federation(protocol, clients=200):
    """Sampled chance level of HR@3: 3 / 30."""
    return small_federation(protocol, clients, items=110, num_candidates=29)


@pytest.fixture(scope="module", params=["paper", "leak-free"])
def audited(request):
    made = federation(request.param)
    return made, audit(QUICK, made)


# --- verdicts -------------------------------------------------------------------------------------


def test_the_verdict_is_that_of_the_negative_pool(audited):
    made, found = audited
    spares = made.protocol.negative_pool == "unseen"
    assert found.verdict == ("leaks" if spares else "does not leak")
    assert found.leaks == spares
    for figures in (found.val, found.test):
        assert figures.chance == pytest.approx(0.1)
        assert figures.spared == Share(200 * spares, 200)
        assert (figures.interval[0] > 0.1) == spares
        assert (figures.p_value < DECISIVE) == spares
        assert (figures.drawn.count == 0) == spares
        assert figures.candidates_drawn.count > 0.5 * figures.candidates_drawn.total
    if not spares:  # held-out items are drawn as often as candidates
        drawn, candidates = found.val.drawn + found.test.drawn, found.test.candidates_drawn
        share = candidates.count / candidates.total
        assert binomtest(drawn.count, drawn.total, share).pvalue > 0.01
    assert found.fingerprint == made.fingerprint
    assert found.tied_users == made.cleaning["tied_users"]


def test_clients_that_share_a_held_out_item_are_independent():
    """All clients start from one table; were the shared item rated alike, all would hit or none."""
    made = federation("leak-free")
    made = dataclasses.replace(
        made,
        num_items=made.num_items + 2,
        val_item=np.full(200, made.num_items, np.int32),
        test_item=np.full(200, made.num_items + 1, np.int32),
    )
    found = audit(dataclasses.replace(QUICK, rounds=1), made)
    for figures in (found.val, found.test):
        assert binom.cdf(figures.local.count, 200, 0.1) > 0.001
        assert binom.sf(figures.local.count - 1, 200, 0.1) > 0.001


def made_up(hits=10, clients=100, spared=0, recurring=0, coinciding=0) -> Audit:
    none, drawn = Share(0, clients), Share(50, clients)
    figures = Figures(
        Share(hits, clients), 0.1, 0.01, 0.01, 0.5, 0.2, none, Share(spared, clients), drawn, drawn
    )
    val = dataclasses.replace(
        figures, local=Share(clients // 10, clients), recurring=Share(recurring, clients)
    )
    rules = preset("leak-free")
    return Audit("x", rules, "f", 0, 50, 10, clients, 500, val, figures, coinciding, 0, {})


@pytest.mark.parametrize(
    ("figures", "verdict", "words"),
    [
        ({}, "does not leak", "stays at chance level"),
        ({"hits": 25}, "leaks", "ranks test items above chance"),
        ({"hits": 18}, "cannot tell", "repeat with another --seed"),
        ({"hits": 2, "clients": 20}, "cannot tell", "20 clients are too few"),
        ({"hits": 0}, "does not leak", "stays at chance level"),
        ({"spared": 1}, "leaks", "2 of 200 held-out items can never be drawn"),
        ({"recurring": 1}, "leaks", "1 of 200 held-out items recur"),
        ({"coinciding": 1}, "leaks", "1 of 100 clients have the same validation and test item"),
    ],
)
def test_what_each_verdict_rests_on(figures, verdict, words):
    found = made_up(**figures)
    assert found.verdict == verdict
    assert found.leaks == (verdict == "leaks")
    assert any(words in reason for reason in found.reasons)


def test_the_interval_is_that_of_clopper_and_pearson():
    low, high = made_up().test.interval
    assert binom.sf(9, 100, low) == pytest.approx(0.025)
    assert binom.cdf(10, 100, high) == pytest.approx(0.025)


# --- counts ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_counted_are_the_negatives_that_the_run_trains_on():
    """A row of a client's table outside its training set moves if and only if it was drawn."""
    made = renumbered(small_federation("leak-free", clients=13), np.random.default_rng(0))
    some = {"rounds": 3, "client_fraction": 0.6, "size_classes": 2}
    config = dataclasses.replace(QUICK, bce="logit", **some)
    devices = jax.devices()[:1]
    simulation = Simulation(config, made, devices)
    start = np.asarray(simulation.init().clients.items[:13])  # the same for all
    result = run(config, made, devices=devices)
    end = np.asarray(result.state.clients.items)[result.layout.place]
    moved = (end != start).any(-1)
    for name, mask in drawn_as_negative(config, made).items():
        asked = getattr(made, name).reshape(13, -1)
        expected = np.take_along_axis(moved, asked, axis=1)
        assert 0 < expected.sum() < expected.size
        np.testing.assert_array_equal(mask.reshape(13, -1), expected)


def test_popularity_and_chance_by_hand(audited):
    made, found = audited
    clients, everything = range(made.num_clients), set(range(made.num_items))
    train = [set(made.train_items(u).tolist()) for u in clients]
    trained_on = [sum(item in own for own in train) for item in everything]

    def ahead(item, others):
        """Rank of the item; equal ones count against it."""
        return 1 + sum(trained_on[other] >= trained_on[item] for other in others)

    for part, figures in (("val", found.val), ("test", found.test)):
        items = getattr(made, f"{part}_item").tolist()
        candidates = getattr(made, f"{part}_candidates").tolist()
        left_out = [own | ({int(made.val_item[u])} if part == "test" else set())
                    for u, own in enumerate(train)]  # fmt: skip
        others = [everything - left_out[u] - {items[u]} for u in clients]
        sampled = np.mean([ahead(items[u], candidates[u]) <= 3 for u in clients])
        full = np.mean([ahead(items[u], others[u]) <= 3 for u in clients])
        assert figures.popularity == pytest.approx(sampled)
        assert figures.popularity_full == pytest.approx(full)
        assert figures.chance_full == pytest.approx(np.mean([3 / (len(o) + 1) for o in others]))


def test_every_client_renumbers_all_its_lists_alike():
    made = federation("paper", clients=20)
    new = renumbered(made, np.random.default_rng(5))
    for client in range(20):
        pairs = set()
        for name in ("val_item", "test_item", "val_candidates", "test_candidates"):
            old, its = getattr(made, name)[client], getattr(new, name)[client]
            pairs |= set(zip(np.ravel(old).tolist(), np.ravel(its).tolist(), strict=True))
        pairs |= set(zip(made.train_items(client), new.train_items(client), strict=True))
        assert len(pairs) == len({old for old, _ in pairs}) == len({its for _, its in pairs})
        barred = new.barred_items(client)
        held_out = [new.val_item[client], new.test_item[client]]
        np.testing.assert_array_equal(barred, np.unique([*new.train_items(client), *held_out]))
    assert len(set(new.val_item.tolist())) > len(set(made.val_item.tolist()))


# --- a file of one's own --------------------------------------------------------------------------


@pytest.fixture
def repeats(tmp_path):
    """Four users; in order of time, the last item is the test item."""
    histories = {
        "a": [1, 2, 3, 1],  # the test item was trained on
        "b": [4, 5, 6, 6],  # validation item = test item
        "c": [7, 8, 7, 9],  # the validation item was trained on
        "d": [10, 11, 12, 13],
    }
    rows = [(user, item, 5, t) for user, own in histories.items() for t, item in enumerate(own)]
    path = tmp_path / "mine.csv"
    lines = ["user,item,rating,timestamp", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines))
    return path


FLAGS = {"min_interactions": 3, "num_candidates": 4, "top_k": 2, "rounds": 1, "size_classes": 1}


def flags(**values) -> list[str]:
    return [word for name, value in (FLAGS | values).items()
            for word in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """The command line with JAX left alone, in a folder of its own."""
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("protocol", "status"), [("paper", 1), ("leak-free", 0)])
def test_exit_status_tells_the_verdict(alone, repeats, tmp_path, capsys, protocol, status):
    args = ["audit", "--dataset", str(repeats), "--protocol", protocol, *flags(candidates="shared")]
    if status:
        with pytest.raises(SystemExit) as exit_:
            cli.main([*args, "--out", "x"])
        assert exit_.value.code == status
        record = json.loads((tmp_path / "x" / "audit.json").read_text())
        assert record["verdict"] == "leaks"
        assert record["protocol"]["negative_pool"] == "unseen"
        for part in ("val", "test"):
            assert record[part]["recurring"] == {"count": 1, "total": 4}
            assert record[part]["spared"] == {"count": 3, "total": 3}
        assert record["coinciding"] == 1
        assert len(record["test"]["interval"]) == 2
    else:
        cli.main(args)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]
    shown = capsys.readouterr().out
    assert f"mine.csv · protocol {protocol}" in shown
    assert ("verdict: the protocol leaks" if status else "verdict: cannot tell") in shown


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--protocol", "papr"], "did you mean 'paper'?"),
        (["--dataset", "absent.csv"], "absent.csv"),
        (["--out", "mine.csv"], "is a file"),
    ],
)
def test_a_mistake_is_one_sentence(alone, repeats, capsys, args, sentence):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["audit", *args])
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err


def test_a_list_as_long_as_the_ranking_is_refused(repeats):
    made = load(str(repeats), preset("paper", min_interactions=3, num_candidates=4), 0)
    with pytest.raises(UserError, match="top_k: among 4 candidates"):
        audit(FedEM(top_k=5), made)
