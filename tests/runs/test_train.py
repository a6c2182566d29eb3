"""The loop around a method: what is run, evaluated, recorded, refused. The method is a toy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy, small_federation, toy

import fedem_jax as fj
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.registry import METHODS, Method
from fedem_jax.core.draws import KeyedDraws
from fedem_jax.errors import UserError
from fedem_jax.evaluation.metrics import HeldOutRanks, summarise
from fedem_jax.report.run_tables import closing
from fedem_jax.report.terminal import Terminal
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.train import run


@pytest.fixture(scope="module")
def federation():
    return small_federation()


def scores_of(federation, hits):
    """Scores [R, C, I] that rank the held-out items first, for so many clients in each round:
    `hits` [R] pairs of clients whose validation item, and whose test item, are ranked first."""
    scores = np.tile(-np.arange(federation.num_items, dtype=float), (len(hits), 7, 1))
    for number, (val, test) in enumerate(hits):
        for u in range(7):
            scores[number, u, federation.val_item[u]] = 2 if u < val else -99
            scores[number, u, federation.test_item[u]] = 1 if u < test else -99
    return scores


class Log(fj.Observer):
    """An observer that remembers what it heard."""

    def __init__(self):
        self.heard = []

    def on_start(self, setting):
        self.heard.append(("start", setting))

    def on_round(self, record):
        self.heard.append(("round", record))

    def on_end(self, summary, per_client):
        self.heard.append(("end", (summary, per_client)))


HITS = [(0, 0), (2, 3), (5, 1), (1, 6), (5, 2), (4, 4)]
"""Of 7 clients, in round 0 (never evaluated), 1, ... 5."""


@pytest.fixture
def go(monkeypatch, federation):
    """Run the toy."""

    def go(scores=None, observers=(), **settings):
        scores = scores_of(federation, HITS) if scores is None else scores
        monkeypatch.setitem(METHODS, "toy", Method(Toy, toy(scores)))
        config = Toy(top_k=3, **({"rounds": 5} | settings))
        return run(config, federation, observers)

    return go


# --- records and summary --------------------------------------------------------------------------


def test_every_round_is_evaluated_and_recorded(go, federation):
    records = go().records
    assert [record["round"] for record in records] == [1, 2, 3, 4, 5]
    for record, (val, test) in zip(records, HITS[1:], strict=True):
        assert record["val"]["hr@3"] == pytest.approx(val / 7)
        assert record["test"]["ndcg@3"] == pytest.approx(test / 7)
        assert record["val_full"]["hr@3"] == pytest.approx(val / 7)
        assert record["loss"] == pytest.approx(1 / record["round"])
        assert record["epochs"] == 2
        assert (record["bytes_up"], record["bytes_down"]) == (10, 20)
        assert record["fingerprint"] == federation.fingerprint
        assert record["seconds"] > 0


def test_the_headline_is_the_latest_of_the_best_validation_rounds(go):
    result = go()
    headline, best = result.summary["headline"], result.summary["best_test"]
    assert headline["round"] == 4
    assert headline["test"]["hr@3"] == pytest.approx(2 / 7)
    assert best["round"] == 3
    assert best["test"]["hr@3"] == pytest.approx(6 / 7)
    assert result.summary["last"]["round"] == 5
    assert result.summary["bytes_down"] == 100
    val = result.per_client["val"]
    assert (val == 1).sum() == 5
    assert list(result.curve.index) == [1, 2, 3, 4, 5]
    assert result.curve.loc[3, "test hr@3"] == pytest.approx(6 / 7)


@pytest.mark.parametrize("rounds", [(1, 2), (2, 1)])
def test_ranks_of_clients_and_headline_are_of_the_same_round(go, federation, rounds):
    """Two rounds in which as many clients hit their validation item, but not the same ones."""
    hits = {1: ((0, 1, 2), (0,)), 2: ((4, 5, 6), (2, 3, 5, 6))}
    scores = np.tile(-np.arange(federation.num_items, dtype=float), (4, 7, 1))
    for number, of in zip((1, 2), rounds, strict=True):
        for items, chosen in zip(
            (federation.val_item, federation.test_item), hits[of], strict=True
        ):
            there = np.isin(np.arange(7), chosen)
            scores[number, np.arange(7), items] = np.where(there, 1, -99)
    result = go(scores, rounds=2)
    first, second = result.records
    assert first["val"] == second["val"]
    assert first["test"] != second["test"]
    assert result.summary["headline"]["round"] == 2  # of equals, the latest
    for part, chosen in zip(("val", "test"), hits[rounds[1]], strict=True):
        hit = result.per_client[part] <= 3
        assert list(np.flatnonzero(hit)) == list(chosen)
        assert result.summary["headline"][part]["hr@3"] == pytest.approx(len(chosen) / 7)
    for part in ("val", "test", "val_full", "test_full"):
        found = summarise(HeldOutRanks.of_one(result.per_client[part].to_numpy()), 3)
        assert found == pytest.approx(result.summary["headline"][part])


@pytest.mark.parametrize(("every", "rounds"), [(2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_evaluation_in_intervals_ends_with_the_last_round(go, every, rounds):
    result = go(eval_every=every)
    assert [record["round"] for record in result.records] == rounds
    assert result.records[0]["val"]["hr@3"] == pytest.approx(HITS[rounds[0]][0] / 7)
    assert result.records[-1]["loss"] == pytest.approx(1 / 5)
    assert result.state.server == 5


@pytest.mark.parametrize(
    ("patience", "every", "rounds", "best"),
    [(0, 1, 5, 4), (1, 1, 3, 2), (2, 1, 4, 4), (3, 1, 5, 4), (1, 2, 4, 4), (9, 1, 5, 4)],
)
def test_a_run_ends_when_its_patience_does(go, patience, every, rounds, best):
    """The best value is that of rounds 2 and 4: an equal one is no better."""
    result = go(patience=patience, eval_every=every)
    summary = result.summary
    assert (summary["rounds"], summary.get("planned_rounds", 5)) == (rounds, 5)
    assert ("planned_rounds" in summary) == (rounds < 5)
    assert summary["headline"]["round"] == best
    assert result.state.server == rounds
    assert summary["bytes_up"] == rounds * result.records[-1]["bytes_up"]


def test_a_run_that_lost_its_patience_says_so(go):
    text = Terminal(width=100, record=True)
    text.print(closing(go(patience=1).summary))
    assert "ended after 3 of 5 rounds" in text.export_text()


def test_losses_are_means_over_those_who_trained(go):
    (record,) = go(rounds=1, client_fraction=0.5).records
    assert record["loss"] == 1
    assert record["epochs"] == 2


def test_observers_hear_everything_in_order(go):
    logs = [Log(), Log()]
    result = go(observers=logs, rounds=3)
    for log in logs:
        assert [kind for kind, _ in log.heard] == ["start", *["round"] * 3, "end"]
        (_, setting), *records, (_, (summary, per_client)) = log.heard
        assert setting["federation"] is result.federation
        assert [record for _, record in records] == result.records
        assert summary == result.summary
        assert per_client is result.per_client


# --- what is refused ------------------------------------------------------------------------------


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="'pfedrc' is unknown; did you mean 'pfedrec'"):
        fj.preset(method="pfedrc")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_end_the_run(go, federation, value):
    log, scores = Log(), scores_of(federation, HITS)
    scores[2, 4, 11] = scores[3:, :, 0] = value
    with pytest.raises(UserError) as error:
        go(scores, [log])
    message = str(error.value)
    assert "round 2: client 4" in message
    assert f"user {federation.user_ids[4]})" in message
    assert "lr_embedding (now 0.01)" in message
    assert [kind for kind, _ in log.heard] == ["start", "round"]


def test_too_few_items_to_draw_from_are_refused(federation):
    fewest = federation.num_items - np.diff(federation.barred_offsets)
    user = federation.user_ids[fewest.argmin()]
    Simulation(FedEM(num_negative=int(fewest.min())), federation, jax.devices()[:1])
    with pytest.raises(UserError, match=f"user {user}: only {fewest.min()} items"):
        Simulation(FedEM(num_negative=int(fewest.min()) + 1), federation)


class Fixed(KeyedDraws):
    """Draws in which the same two clients train in every round."""

    def participants(self):
        return jnp.array([2, 5], jnp.int32)


def test_other_draws_decide_who_trains(monkeypatch, federation):
    monkeypatch.setitem(METHODS, "toy", Method(Toy, toy(scores_of(federation, HITS))))
    simulation = Simulation(Toy(top_k=3), federation, draws=Fixed.of_round)
    state = simulation.init()
    info = simulation.segment(state, 1)(state, 0).info
    epochs = np.asarray(info.epochs[0])[simulation.layout.place]
    assert list(np.flatnonzero(epochs)) == [2, 5]


# --- segments -------------------------------------------------------------------------------------


@pytest.fixture
def simulation(monkeypatch, federation):
    """The toy, and how often its round was traced."""
    bound, traces = toy(scores_of(federation, HITS)), []

    def counted(*args):
        algorithm = bound(*args)

        def round(*args):
            traces.append(1)
            return algorithm.round(*args)

        return algorithm._replace(round=round)

    monkeypatch.setitem(METHODS, "toy", Method(Toy, counted))
    return Simulation(Toy(), federation), traces


def test_a_segment_is_compiled_once_for_each_length(simulation):
    simulation, traces = simulation
    state = simulation.init()
    for number in range(3):
        state, *_ = simulation.segment(state, 1)(state, number)
    assert len(traces) == 1
    state, info, _ = simulation.segment(state, 2)(state, 3)
    assert len(traces) == 2
    assert state.server == 5
    np.testing.assert_allclose(info.loss[:, 0], [1 / 4, 1 / 5])


def test_a_segment_takes_the_state_over_and_stays_on_the_device(simulation):
    simulation, _ = simulation
    before = simulation.init()
    segment, number = simulation.segment(before, 1), jnp.int32(0)
    with jax.transfer_guard("disallow"):
        after, *_ = segment(before, number)
    assert before.clients["score"].is_deleted()
    assert not after.clients["score"].is_deleted()


def test_what_nobody_downloads_goes_into_the_next_segment_all_the_same():
    """Without a reader, XLA might leave the tables of the served on the devices that made them."""
    config = FedEM(
        merging="none", aggregation_fraction=0.5, dim=4, local_epochs=1, size_classes=1, top_k=3
    )
    simulation = Simulation(config, small_federation(clients=8))
    state = simulation.init()
    for number in range(2):
        state, *_ = simulation.segment(state, 1)(state, number)
    first = jax.tree.leaves(simulation.init().server.items)[0]
    assert jax.tree.leaves(state.server.items)[0].sharding == first.sharding
