"""Ranks: ties, both scales, full and sampled, numbers that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import twin
from toy import Toy, small_federation, toy

import fedem_jax as fj
from fedem_jax.config.registry import METHODS, Method
from fedem_jax.evaluation.metrics import HeldOutRanks, summarise
from fedem_jax.evaluation.ranking import Ranking, rank, rank_all
from fedem_jax.runs.simulation import Simulation

TIES = ["pessimistic", "average"]


# --- rank -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ties", "expected"), [("pessimistic", [4, 1, 5]), ("average", [3, 1, 3])])
def test_ties_count_in_full_or_by_half(ties, expected):
    held_out = jnp.float32([2, 9, 0])
    candidates = jnp.float32([[3, 2, 2, 1], [1, 2, 3, 8], [0, 0, 0, 0]])
    np.testing.assert_array_equal(rank(held_out, candidates, ties), expected)


@pytest.mark.parametrize("ties", TIES)
def test_ranks_are_those_of_the_twin(ties):
    scores = np.random.default_rng(0).integers(0, 6, (200, 9)).astype(np.float32)
    ours = rank(jnp.asarray(scores[:, 0]), jnp.asarray(scores[:, 1:]), ties)
    np.testing.assert_array_equal(ours, twin.rank(scores[:, 0], scores[:, 1:], ties))


def test_metrics_of_recorded_scores_with_ties(golden_trace):
    cases = zip(*(golden_trace[f"metric_{name}"] for name in ("pos", "neg", "hr", "ndcg")),
                strict=True)  # fmt: skip
    sound = [case for case in cases if np.isfinite(case[0]).all() and np.isfinite(case[1]).all()]
    assert len(sound) == 13
    for held_out, candidates, hr, ndcg_ in sound:
        ranks = np.asarray(rank(jnp.asarray(held_out), jnp.asarray(candidates), "pessimistic"))
        ours = summarise(HeldOutRanks.of_one(ranks), 10)
        assert (ours["hr@10"], ours["ndcg@10"]) == pytest.approx((hr, ndcg_), abs=1e-9)


# --- ranks of a federation ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores():
    """Few values, so that they tie; some are so large that their probabilities tie as well."""
    return np.random.default_rng(1).choice([-1, 0, 0.5, 2, 17, 20, 30], (7, 60))


def ranks_of(scores, protocol="leak-free", block=0, devices=1, length=4, **switches):
    """A federation under a protocol, and the ranks of its clients with these scores."""
    federation = small_federation(protocol, **switches)
    scores = scores[:, : federation.num_items]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(METHODS, "toy", Method(Toy, toy(scores[None])))
        config = Toy(block_size=block)
        simulation = Simulation(config, federation, jax.devices()[:devices])
        start = simulation.init()
    ranking = Ranking(federation.protocol.ties, federation.protocol.scale, length)

    @jax.jit
    def ranks(state, lists, held_out):
        return rank_all(
            simulation.algorithm, simulation.layout, state, lists, held_out, (), ranking
        )

    found = ranks(start, simulation.lists, simulation.held_out)
    return federation, simulation.by_client(found)


def by_twin(federation, scores):
    """The same ranks, one client at a time."""
    ties, every = federation.protocol.ties, np.arange(federation.num_items)
    if federation.protocol.scale == "probability":
        scores = twin.sigmoid(np.float32(scores))
    ranks: dict[str, list] = {"val": [], "test": [], "val_full": [], "test_full": []}
    for u in range(federation.num_clients):
        val, test = federation.val_item[u], federation.test_item[u]
        new = np.setdiff1d(every, federation.train_items(u))
        asked = {
            "val": (val, federation.val_candidates[u]),
            "test": (test, federation.test_candidates[u]),
            "val_full": (val, np.setdiff1d(new, [val])),
            "test_full": (test, np.setdiff1d(new, [val, test])),
        }
        for part, (item, others) in asked.items():
            ranks[part].append(twin.rank(scores[u, item], scores[u, others], ties))
    return ranks


@pytest.mark.parametrize(
    ("protocol", "switches"),
    [("leak-free", {}), ("paper", {}), ("paper-p", {}), ("leak-free", {"ties": "average"})],
)
def test_ranks_of_all_clients_are_those_of_the_twin(scores, protocol, switches):
    federation, ranks = ranks_of(scores, protocol, block=3, devices=2, **switches)
    assert ranks.finite.all()
    for part, expected in by_twin(federation, scores).items():
        np.testing.assert_array_equal(getattr(ranks, part), expected, err_msg=part)


def test_probabilities_tie_where_logits_do_not(scores):
    logits, probabilities = (
        ranks_of(scores, "paper", scale=scale)[1] for scale in ("logit", "probability")
    )
    assert (logits.val_full <= probabilities.val_full).all()
    assert (logits.val_full < probabilities.val_full).any()


@pytest.mark.parametrize("block", [1, 8])
def test_ranks_do_not_depend_on_the_cut(scores, block):
    one, other = ranks_of(scores, block=block), ranks_of(scores, block=3, devices=2)
    for ours, theirs in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_client_is_shown_the_best_of_what_it_does_not_know():
    distinct = np.random.default_rng(2).permuted(np.tile(np.arange(60.0), (7, 1)), axis=1)
    federation, ranks = ranks_of(distinct, block=3, length=5)
    for u, shown in enumerate(ranks.listed):
        known = federation.train_items(u)
        best = np.argsort(-distinct[u, : federation.num_items])
        np.testing.assert_array_equal(shown, best[~np.isin(best, known)][:5])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_flagged(scores, value):
    federation = small_federation()
    scores = scores.copy()
    scores[1, federation.val_item[1]] = value
    scores[4, federation.test_candidates[4, 5]] = value
    scores[6, federation.train_items(6)[0]] = value
    _, ranks = ranks_of(scores)
    np.testing.assert_array_equal(ranks.finite, [True, False, True, True, False, True, False])


def test_any_scores_are_judged_as_a_run_judges_its_own():
    federation = small_federation()
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(federation.num_clients, federation.num_items))
    found = fj.evaluate(federation, scores, k=3)
    for part in ("val", "test"):
        held_out = getattr(federation, f"{part}_item")[:, None]
        candidates = getattr(federation, f"{part}_candidates")
        ranks = twin.rank(
            np.take_along_axis(scores, held_out, 1)[:, 0], np.take_along_axis(scores, candidates, 1)
        )
        assert found[part]["hr@3"] == np.mean(twin.hit_rate(ranks, 3))
    with pytest.raises(fj.UserError, match="expected"):
        fj.evaluate(federation, scores[:, :-1])
    scores[2, 5] = np.nan
    with pytest.raises(fj.UserError, match="client 2"):
        fj.evaluate(federation, scores)


def test_scores_that_do_not_tell_clients_apart_need_one_row():
    federation = small_federation()
    popularity = np.bincount(federation.items, minlength=federation.num_items)[None]
    everyone = np.repeat(popularity, federation.num_clients, axis=0)
    assert fj.evaluate(federation, popularity, 3) == fj.evaluate(federation, everyone, 3)
