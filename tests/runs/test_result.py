"""What a finished run can be asked, in memory and read back from its directory."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from lab import config_of, waiting_tables
from toy import small_federation

import fedem_jax as fj
from fedem_jax.errors import UserError
from fedem_jax.evaluation.records import PARTS
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.opened import open_run
from fedem_jax.runs.train import run
from fedem_jax.storage.checkpoint import found


@pytest.fixture(scope="module")
def federation():
    return small_federation()


@pytest.fixture(scope="module")
def runs(federation, tmp_path_factory):
    """A run of each method that is asked for, in memory and read back."""
    made = {}

    def of(method):
        if method not in made:
            path = tmp_path_factory.mktemp(method)
            config = config_of(method, rounds=4, top_k=5)
            made[method] = run(config, federation, (), RunDirectory(path / "run"))
        return made[method], open_run(made[method].path, federation)

    return of


def test_a_run_reads_back_as_it_was_returned(runs):
    result, opened = runs("fedem")
    assert opened.summary == json.loads(json.dumps(result.summary))
    assert opened.config == result.config
    assert opened.per_client.equals(result.per_client)
    assert repr(opened) == repr(result)
    assert len(repr(result)) < 250
    pd.testing.assert_frame_equal(opened.curve, result.curve)


@pytest.mark.parametrize("method", ["fedem", "fedmf", "central-mf"])
@pytest.mark.slow_but("fedem")
def test_both_states_rank_as_the_summary_says(runs, method):
    for result in runs(method):
        for which, name in (("best", "headline"), ("last", "last")):
            metrics = result.evaluate(round=which)
            for part in PARTS:
                assert metrics[part] == pytest.approx(result.summary[name][part], abs=1e-6), which


def test_a_best_round_before_the_last_has_a_state_of_its_own(federation, tmp_path):
    """Steps this large get worse from round to round, at some time."""
    config = config_of("fedmf", rounds=8, top_k=3, lr_embedding=0.5)
    result = run(config, federation, (), RunDirectory(tmp_path / "run"))
    best, last = (result.summary[name]["round"] for name in ("headline", "last"))
    assert best < last
    assert set(found(tmp_path / "run" / "checkpoint")) == {best, last}
    for each in (result, open_run(result.path, federation)):
        scores = [each.scores([1, 2], which).to_numpy() for which in ("best", "last")]
        assert not np.allclose(*scores)
    short = run(dataclasses.replace(config, rounds=best), federation)
    np.testing.assert_allclose(short.scores([1, 2], "last"), result.scores([1, 2]), atol=1e-5)


@pytest.mark.parametrize("method", ["fedem", "fedmf", "fedca", "pfedrec", "fcf"])
@pytest.mark.slow_but("fedem", "pfedrec")
def test_scores_are_those_of_the_item_table_that_the_client_uses(runs, method):
    """With the private part of the client, which the state has."""
    result, opened = runs(method)
    for which in ("best", "last"):
        clients = result.states[which].clients
        for user in opened.federation.user_ids[[0, 4]]:
            table = opened.item_table(user, which).to_numpy()
            place = result.layout.place[list(opened.federation.user_ids).index(user)]
            private = clients.user if method == "fcf" else clients.private
            own = jax.tree.map(lambda leaf, place=place: np.asarray(leaf)[place], private)
            if method == "pfedrec":
                dense = next(iter(own.values()))
                expected = table @ dense["kernel"][:, 0] + dense["bias"]
            else:
                expected = table @ (own if method == "fcf" else own["user"])
            np.testing.assert_allclose(opened.scores([user], which).loc[user], expected, atol=1e-5)


def test_merged_tables_are_local_rows_moved_by_rho(runs):
    result, _ = runs("fedem")
    state = result.states["last"]
    waiting = waiting_tables(result.layout, state)
    for client, user in enumerate(result.federation.user_ids):
        place = result.layout.place[client]
        rho = result.rho(user, "last")
        local = np.asarray(state.clients.items)[place]
        served = waiting.get(client, local)
        expected = local + rho.to_numpy()[:, None] * (served - local)
        assert (rho > 0).all() if client in waiting else (rho == 0).all()
        np.testing.assert_allclose(result.item_table(user, "last"), expected, atol=1e-6)
    assert 0 < len(waiting) < len(result.federation.user_ids)


@pytest.mark.parametrize("method", ["fedem", "fedmf"])
@pytest.mark.parametrize("exclude", [True, False])
def test_lists_are_the_best_scores_but_for_what_was_seen(runs, method, exclude):
    result, opened = runs(method)
    federation = opened.federation
    lists = opened.recommend(k=7, exclude_seen=exclude)
    assert lists.equals(result.recommend(k=7, exclude_seen=exclude))
    assert lists["user"].unique().tolist() == federation.user_ids.tolist()
    for client, user in enumerate(federation.user_ids):
        scores = opened.scores([user]).loc[user]
        if exclude:
            seen = [*federation.train_items(client), federation.val_item[client]]
            scores = scores.drop(federation.item_ids[seen])
        expected = scores.sort_values(ascending=False, kind="stable")[:7]
        mine = lists[lists["user"] == user]
        assert mine["item"].tolist() == expected.index.tolist()
        assert mine["rank"].tolist() == list(range(1, 8))
        np.testing.assert_allclose(mine["score"], expected, atol=1e-5)


def test_lists_of_some_users_are_those_of_all(runs):
    """In the order that was asked for, and with fewer items where there are no more."""
    _, opened = runs("fedem")
    users, num_items = opened.federation.user_ids[[5, 0, 3]], opened.federation.num_items
    everyone, some = opened.recommend(k=4), opened.recommend(users, k=4)
    expected = pd.concat([everyone[everyone["user"] == user] for user in users])
    assert some["user"].unique().tolist() == users.tolist()
    assert some["item"].tolist() == expected["item"].tolist()
    assert opened.recommend([str(users[0])], k=4).equals(opened.recommend(users[:1], k=4))
    whole = opened.recommend(users[:1], k=10**6)
    left = num_items - len(set(opened.federation.train_items(5))) - 1
    assert len(whole) == left
    assert len(opened.recommend([])) == 0


def test_what_cannot_be_asked_is_refused_in_a_sentence(runs):
    _, opened = runs("fedmf")
    for ask, sentence in [
        (lambda: opened.recommend(["nobody"]), r"users: 'nobody' is none of the 7 of small, such"),
        (lambda: opened.recommend("1"), r"users: '1' is one label; give a list"),
        (lambda: opened.recommend(k=0), r"k: 0 is out of range|k: "),
        (lambda: opened.scores([1], "second"), r"round: 'second' is unknown; give 'best'"),
        (lambda: opened.rho(1), r"rho: fedmf merges no tables"),
        (lambda: opened.recommend_new([]), r"items: is empty"),
        (lambda: opened.recommend_new(["x"]), r"items: 'x' is none of the \d+ of small"),
        (lambda: runs("local-only")[1].recommend_new([1]), r"recommend_new: local-only .* fedmf"),
    ]:
        with pytest.raises(UserError, match=sentence):
            ask()


def test_a_state_can_be_asked_on_other_devices(runs):
    for method in ("fedem", "fedmf"):
        result, _ = runs(method)
        other = open_run(result.path, result.federation, jax.devices()[:2])
        assert (result.layout.mesh.size, other.layout.mesh.size) == (1, 2)
        np.testing.assert_allclose(
            other.scores(result.federation.user_ids), result.scores(result.federation.user_ids),
            atol=1e-6,
        )  # fmt: skip


# --- what is kept ---------------------------------------------------------------------------------


def test_none_is_kept_if_the_settings_say_so(federation, tmp_path):
    config = config_of("fedmf", rounds=8, top_k=3, lr_embedding=0.5, keep="none",
                       checkpoint_every=1)  # fmt: skip
    result = run(config, federation, (), RunDirectory(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoint").exists()
    with pytest.raises(UserError, match=r"run: holds no state of round \d; .* `--keep none`"):
        open_run(tmp_path / "run", federation).recommend()
    result = run(config, federation)
    with pytest.raises(UserError, match=r"the run kept no state of round \d; .*keep='best-and-"):
        result.recommend()
    assert len(result.recommend(round="last"))


def test_other_data_are_refused(runs, federation):
    result, _ = runs("fedmf")
    with pytest.raises(UserError, match=r"its data \('small'\) were in memory; .* federation="):
        open_run(result.path)
    other = dataclasses.replace(federation, fingerprint="0123")
    with pytest.raises(UserError, match=rf"other data \(data '{federation.fingerprint}', now '0"):
        open_run(result.path, other)
    with pytest.raises(UserError, match="there is no such run directory"):
        open_run(result.path / "nowhere")


# --- a client that was not there ------------------------------------------------------------------


def test_a_newcomer_trains_its_vector_alone_like_a_plain_loop(runs):
    """Adam in float64 on p, over the samples that were drawn, with the table of the server."""
    from fedem_jax.runs import newcomer

    result, _ = runs("fedmf")
    config, state = result.config, result.states["last"]
    items = np.array([3, 11, 20, 35])
    table = np.asarray(state.server.items, np.float64)
    p = np.asarray(result.simulation.init().clients.private["user"][0], np.float64)
    room, hyper = 4, result.simulation.algorithm.hyper
    samples = newcomer.samples_of(result.simulation, newcomer.lists_of(items, room), room, hyper)
    for number in range(3):
        drawn = samples(jnp.int32(number))
        count, moments = int(drawn.count), (np.zeros_like(p), np.zeros_like(p))
        assert count == len(items) * (1 + config.num_negative)
        step, losses, before = 0, 0.0, None
        for epoch in range(config.local_epochs):
            order = np.asarray(drawn.order(jnp.int32(epoch), drawn.count)(jnp.arange(count)))
            for start in range(0, count, config.batch_size):
                row = np.asarray(drawn.row_of)[order[start : start + config.batch_size]]
                q, y = table[np.asarray(drawn.rows)[row]], np.asarray(drawn.labels)[row]
                assert set(np.asarray(drawn.rows)[row][y > 0]) <= set(items)
                probability = 1 / (1 + np.exp(-q @ p))
                loss = -np.log(np.where(y > 0, probability, 1 - probability))
                gradient = (probability - y) @ q / len(row)
                step += 1
                first = 0.9 * moments[0] + 0.1 * gradient
                second = 0.999 * moments[1] + 0.001 * gradient**2
                moments = first, second
                ahead = first / (1 - 0.9**step), second / (1 - 0.999**step)
                p = p - config.lr_embedding * ahead[0] / (np.sqrt(ahead[1]) + 1e-8)
                losses += loss.sum()
            now = losses / ((epoch + 1) * count)
            if before is not None and abs(now - before) / abs(before + 1e-5) < config.threshold:
                break
            before = now
    labels = result.federation.item_ids
    lists = result.recommend_new(labels[items], k=60, round="last", rounds=3, exclude_seen=False)
    expected = pd.Series(table @ p, labels)
    np.testing.assert_allclose(lists["score"], expected[lists["item"]], atol=1e-5)
    assert len(lists) == result.federation.num_items
    shorter = result.recommend_new(labels[items], k=5, round="last", rounds=3)
    assert shorter["rank"].tolist() == [1, 2, 3, 4, 5]
    assert not set(shorter["item"]) & set(labels[items])


@pytest.mark.parametrize("method", ["fedmf", "pfedrec", "fedncf", "fcf", "fedem"])
@pytest.mark.slow
def test_a_newcomer_likes_what_it_interacted_with(method):
    """On two groups of items, the items of its own group come first, as for the others."""
    from toy import checkerboard

    average = {"merging": "replace", "aggregation": "avg", "aggregation_fraction": 1.0}
    steps = {
        "fcf": {"server_steps": 3, "lr_server": 0.1},
        "fedem": average | {"lr_embedding": 0.05},
    }.get(method, {"lr_embedding": 0.05})
    config = config_of(method, rounds=12, local_epochs=5, dim=8, client_fraction=1.0, **steps)
    result = run(config, checkerboard("leak-free"))
    for parity in (0, 1):
        mine = list(range(parity, 30, 2))
        scores = result.recommend_new(mine, k=48, exclude_seen=False, rounds=30)
        group = scores["item"].to_numpy() % 2 == parity
        assert scores["score"][group].mean() > scores["score"][~group].mean()


# --- warm start -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedem", "fedmf"])
@pytest.mark.slow_but("fedmf")
def test_a_run_starts_from_the_best_state_of_another(runs, federation, tmp_path, method):
    """From memory and from disk alike, and not as from the initial parameters."""
    result, _ = runs(method)
    config = dataclasses.replace(result.config, rounds=1, seed=1)
    warm = run(config, federation, (), RunDirectory(tmp_path / "run"), start=result.path)
    from_memory = run(config, federation, start=result)
    users = federation.user_ids
    np.testing.assert_array_equal(warm.scores(users), from_memory.scores(users))
    assert not np.allclose(warm.scores(users), run(config, federation).scores(users), atol=1e-3)
    best = result.summary["headline"]["round"]
    expected = {
        "run": str(result.path), "round": best, "fingerprint": federation.fingerprint,
    }  # fmt: skip
    assert open_run(tmp_path / "run", federation).summary["start"] == expected
    again = run(open_run(tmp_path / "run", federation).config, federation)
    np.testing.assert_array_equal(again.scores(users), warm.scores(users))


def test_a_start_that_does_not_fit_is_refused(runs, federation):
    result, _ = runs("fedmf")
    config = result.config
    with pytest.raises(UserError, match=r"start: .* is a run of fedmf, not of fedem; give one"):
        run(config_of("fedem", top_k=5), federation, start=result.path)
    with pytest.raises(UserError, match=r"its parameters do not fit this run \(.*its sizes"):
        run(dataclasses.replace(config, dim=2), federation, start=result.path)
    other = dataclasses.replace(federation, user_ids=federation.user_ids + 1)
    with pytest.raises(UserError, match=r"start: .* has other users than the data of this run"):
        run(config, other, start=result.path)
    with pytest.raises(UserError, match="there is no such run directory"):
        run(dataclasses.replace(config, start="nowhere"), federation)


def test_the_front_door_names_what_is_public():
    assert dir(fj) == sorted(fj.__all__)
    assert {"run", "open_run", "federation"} <= set(dir(fj))
