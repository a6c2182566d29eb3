"""What the bottleneck and the histograms of rho report is what a loop over clients finds."""

from functools import partial

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pandas as pd
import pytest
from lab import waiting_tables
from matplotlib.colors import to_hex
from pictures import axes_of, band, colour_of, curve, curves, key, level, said, ticks
from replay import draws_of
from toy import small_federation

from fedem_jax.analysis import bottleneck
from fedem_jax.analysis.bottleneck import (
    STAGES,
    Bottleneck,
    distances,
    heterogeneity_of,
    in_rows,
    reader,
)
from fedem_jax.analysis.bottleneck_charts import draw_drops, draw_stages
from fedem_jax.analysis.bottleneck_figures import fitted, points
from fedem_jax.config.fedem import FedEM
from fedem_jax.core.algorithm import State
from fedem_jax.errors import UserError
from fedem_jax.evaluation.rho import SHAPE, counter, in_order, quantiles
from fedem_jax.runs.memory import plan_memory
from fedem_jax.runs.simulation import Simulation

CLIENTS = 9


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    config = FedEM(
        dim=3, batch_size=16, local_epochs=2, bce="logit", aggregation_fraction=0.6, size_classes=1
    )
    return Simulation(config, small_federation(clients=CLIENTS))


@pytest.fixture(scope="module")
def state(simulation):
    """After two rounds, so that adapters have moved."""
    state, segment = simulation.init(), simulation.segment(simulation.init(), 1)
    for number in range(2):
        state, *_ = segment(state, number)
    return state


@pytest.fixture(scope="module")
def tables(simulation, state):
    """By client: user vector, and the three tables; None for those that were not served."""
    algorithm, layout = simulation.algorithm, simulation.layout
    clients, waiting = jax.tree.map(np.asarray, state.clients), waiting_tables(layout, state)

    def of_device(clients, server):
        places = jnp.arange(layout.shard)
        return algorithm.elastic.rho(State(clients, server), places, algorithm.hyper)

    shares = np.asarray(jax.jit(partial(layout.on_each_device, of_device))(*state))
    found = dict.fromkeys(range(layout.num_clients))
    for client, target in waiting.items():
        place = layout.place[client]
        own, rho = clients.items[place], shares[place]
        user = clients.private["user"][place]
        found[client] = user, rho, (own, target, own + rho[:, None] * (target - own))
    return found


def test_each_table_is_ranked_and_has_its_loss(simulation, state, tables):
    rows = in_rows(simulation, 2, reader(simulation)(state, 2)).set_index("client")
    assert (rows["round"] == 2).all()
    assert list(rows.index) == [client for client, found in tables.items() if found]
    drawn, federation = draws_of(simulation, 2), simulation.federation
    for client, row in rows.iterrows():
        user, _, of_stage = tables[client]
        for stage, table in zip(STAGES, of_stage, strict=True):
            logits = table.astype(float) @ user.astype(float)
            asked = logits[federation.test_candidates[client]]
            assert row[f"rank {stage}"] == 1 + (asked >= logits[federation.test_item[client]]).sum()
            sign = np.where(drawn[client].labels > 0, -1, 1)
            loss = np.logaddexp(0, sign * logits[drawn[client].items]).mean()
            assert row[f"loss {stage}"] == pytest.approx(loss, rel=1e-4)
    assert (rows["loss local"] != rows["loss replaced"]).sum() > 2


def test_distances_are_over_the_own_items(simulation, state, tables):
    optimum = np.random.default_rng(0).normal(size=state.clients.items.shape).astype(np.float32)
    served, apart = distances(simulation, state, optimum)
    for client, place in enumerate(simulation.layout.place):
        assert served[place] == (tables[client] is not None)
        if tables[client] is None:
            continue
        items = np.unique(simulation.federation.train_items(client))
        for table, found in zip(tables[client][2], apart[:, place], strict=True):
            gap = np.linalg.norm((table - optimum[place])[items], axis=1)
            assert found == pytest.approx(np.sqrt(np.mean(gap**2)), rel=1e-4)


def test_heterogeneity_leaves_the_client_itself_out():
    federation = small_federation()
    optimum = np.random.default_rng(1).normal(size=(7, federation.num_items, 3))
    own = [set(federation.train_items(client).tolist()) for client in range(7)]
    for client, found in enumerate(heterogeneity_of(federation, optimum)):
        squares = []
        for item in own[client]:
            others = [optimum[v, item] for v in range(7) if v != client and item in own[v]]
            if others:
                squares.append(np.sum((optimum[client, item] - np.mean(others, axis=0)) ** 2))
        assert found == pytest.approx(np.sqrt(np.mean(squares)))


@pytest.mark.slow
def test_a_whole_measurement(simulation):
    config = FedEM(
        dim=3,
        rounds=2,
        local_epochs=1,
        aggregation_fraction=1.0,
        size_classes=1,
        merging="0.5",
        top_k=3,
    )
    found = bottleneck.bottleneck(config, small_federation(), alone=2)
    assert found.rounds.groupby("round").size().to_dict() == {1: 7, 2: 7}
    assert found.clients.notna().all(axis=None)
    assert (found.clients["distance replaced"] != found.clients["distance local"]).any()
    assert 0 < found.settled < 1


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UserError, match="merging: none"):
        bottleneck.bottleneck(FedEM(merging="none"))
    with pytest.raises(UserError, match="alone: 1"):
        bottleneck.bottleneck(FedEM(), alone=1)
    with pytest.raises(UserError, match=r"client_memory: a bottleneck study .*; give device\.$"):
        bottleneck.bottleneck(FedEM(client_memory="host"))


def test_a_study_that_cannot_fit_is_not_told_to_keep_its_clients_on_the_host():
    config = FedEM(dim=16, client_fraction=0.05, size_classes=1)
    federation = small_federation(clients=400, items=200)
    advice = []
    for settings in (config, bottleneck.Measured.of(config)):
        study = Simulation(settings, federation, jax.devices()[:1])
        place = (settings, federation, study.layout)
        advice.append(plan_memory(*place, limit=study.memory.total - 1).advice)
    assert "--client-memory host" in advice[0]
    assert advice[1]
    assert "--client-memory" not in advice[1]


def test_rho_is_counted_by_activity_popularity_and_own_items(simulation, state, tables):
    count = counter(
        simulation.algorithm, simulation.federation, simulation.layout, simulation.lists
    )
    federation = simulation.federation
    activity = in_order(np.diff(federation.offsets), SHAPE[0])
    popularity = in_order(np.bincount(federation.items, minlength=federation.num_items), SHAPE[1])
    expected = np.zeros(SHAPE, int)
    for client, found in tables.items():
        if found is None:
            continue
        known = np.isin(np.arange(federation.num_items), federation.train_items(client))
        level = np.minimum((found[1] * SHAPE[3]).astype(int), SHAPE[3] - 1)
        np.add.at(expected, (activity[client], popularity, known.astype(int), level), 1)
    np.testing.assert_array_equal(count(state), expected)
    assert (expected.sum(axis=(0, 1, 2)) > 0).sum() > 1  # not all of one kind


def test_a_constant_rho_is_not_counted():
    simulation = Simulation(FedEM(dim=2, merging="0.5"), small_federation())
    assert (
        counter(simulation.algorithm, simulation.federation, simulation.layout, simulation.lists)
        is None
    )


def test_groups_have_about_the_same_size():
    groups = in_order(np.array([5, 1, 9, 7, 3, 3, 8]), 3)
    assert sorted(np.bincount(groups)) == [2, 2, 3]
    assert groups[1] == 0
    assert groups[2] == 2


def test_quantiles_of_a_histogram():
    values = np.random.default_rng(2).beta(2, 5, size=20_000)
    counts = np.stack([np.histogram(values, 20, (0, 1))[0], np.zeros(20, int)])
    found = quantiles(counts, (0.25, 0.5, 0.9))
    np.testing.assert_allclose(found[0], np.quantile(values, (0.25, 0.5, 0.9)), atol=0.01)
    assert np.isnan(found[1]).all()


def test_a_fitted_line_and_its_band():
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 10, 400)
    line = fitted(x, 2 - 0.3 * x + rng.normal(0, 0.5, 400))
    assert line.slope.low < -0.3 < line.slope.high
    assert line.slope.high - line.slope.low < 0.1
    assert (line.low <= line.y).all()
    assert (line.y <= line.high).all()
    assert np.isnan(fitted(np.ones(5), np.ones(5)).slope.mean)


def test_what_replacing_costs_is_more_loss_and_less_quality():
    clients = pd.DataFrame(
        {"history": [10, 100], "heterogeneity": [1.0, np.nan], "loss local": [0.2, 0.3],
         "loss replaced": [0.5, 0.3], "ndcg local": [1.0, 0.0], "ndcg replaced": [0.4, 0.0]}
    )  # fmt: skip
    x, y = points(clients, "ndcg", "history")
    np.testing.assert_allclose(x, [1, 2])
    np.testing.assert_allclose(y, [0.6, 0])
    x, y = points(clients, "loss", "heterogeneity")
    np.testing.assert_allclose([x, y], [[1], [0.3]])


# --- pictures -------------------------------------------------------------------------------------


def measured(*, rounds: int = 9) -> Bottleneck:
    """Made-up numbers of eight clients; client 7 has no distance, client 3 no heterogeneity."""
    rng = np.random.default_rng(5)
    each = [(number, u) for number in range(1, rounds + 1) for u in range(8) if (number + u) % 3]
    seen = pd.DataFrame(each, columns=["round", "client"])
    clients = pd.DataFrame(
        {"user": [f"u{u}" for u in range(8)], "history": [3, 10, 30, 100, 20, 5, 60, 90],
         "heterogeneity": rng.uniform(0, 2, 8)}
    )  # fmt: skip
    for stage in STAGES:
        seen[f"rank {stage}"] = rng.integers(1, 8, len(seen)).astype(float)
        seen[f"loss {stage}"] = rng.uniform(0.2, 0.9, len(seen))
        clients[f"distance {stage}"] = rng.uniform(0, 1, 8)
    clients.loc[3, "heterogeneity"] = np.nan
    clients.loc[7, [f"distance {stage}" for stage in STAGES]] = np.nan
    config = FedEM(rounds=rounds, top_k=3, aggregation_fraction=0.5)
    return Bottleneck(config, made_up.federation(config), seen, clients, 0.01)


def test_the_picture_of_the_stages(tmp_path, pictures):
    found = measured()
    draw_stages(found, tmp_path / "stages.png")
    figure = pictures["stages.png"]
    title, caption = said(figure)
    assert title == "Before and after aggregation"
    assert "synthetic · protocol leak-free · fingerprint 0123456789abcdef" in caption
    assert "9 rounds · seed 0" in caption
    assert "(fraction 0.5); bands: 95 % interval of the mean" in caption
    hr, loss, distance = figure.axes
    assert [axes_of(panel) for panel in figure.axes] == [
        ("HR@3, sampled candidates", "communication round", "share of clients"),
        ("train loss before the next round", "communication round", "mean over the clients"),
        ("distance to the client's own optimum", "item table", "root mean square over its items"),
    ]
    colours = {name: colour_of(line) for name, line in key(loss.get_legend()).items()}
    assert list(colours) == list(STAGES)
    rows = [found.rounds[found.rounds["round"] == number] for number in range(1, 10)]
    for number, stage in enumerate(STAGES):
        hits = [(of[f"rank {stage}"].to_numpy() <= 3) * 1.0 for of in rows]
        losses = [of[f"loss {stage}"].to_numpy() for of in rows]
        for panel, values in ((hr, hits), (loss, losses)):
            (line,) = curves(panel, colours[stage])
            x, y = curve(line)
            assert x == list(range(1, 10))
            mean = np.array([each.mean() for each in values])
            wide = 1.96 * np.array([each.std(ddof=1) / len(each) ** 0.5 for each in values])
            np.testing.assert_allclose(y, mean)
            _, low, high = band(panel, number)
            np.testing.assert_allclose([low, high], [mean - wide, mean + wide], atol=1e-12)
            assert to_hex(panel.collections[number].get_facecolor()[0]) == colours[stage]
    assert hr.get_ylim()[0] == distance.get_ylim()[0] == 0
    assert ticks(distance.xaxis) == dict(enumerate(STAGES, start=1))
    assert len(distance.patches) == len(STAGES)
    for stage, box in zip(STAGES, distance.patches, strict=True):
        known = found.clients[f"distance {stage}"].to_numpy()[:7]  # all but the last client
        heights = box.get_path().vertices[:, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], np.quantile(known, [0.25, 0.75]))
        assert to_hex(box.get_facecolor()) == colours[stage]
    medians = [curve(line)[1] for line in curves(distance, "black") if line.get_zorder() > 2]
    for stage in STAGES:
        middle = np.median(found.clients[f"distance {stage}"][:7])
        assert any(line == pytest.approx([middle, middle]) for line in medians)


def test_the_picture_of_what_replacing_costs(tmp_path, pictures):
    found = measured()
    draw_drops(found, tmp_path / "drops.png")
    figure = pictures["drops.png"]
    title, caption = said(figure)
    assert title == "What a client loses when the aggregated table takes the place of its own"
    assert "its mean over the last third of the rounds" in caption
    panels = np.array(figure.axes).reshape(2, 2)
    units = [[panel.get_ylabel() for panel in row] for row in panels]
    assert units == [["added train loss"] * 2, ["lost NDCG@3"] * 2]
    assert [panel.get_xlabel() for panel in panels[1]] == [
        "heterogeneity: distance of its optimum from the others'", "training items of the client",
    ]  # fmt: skip
    late = found.rounds[found.rounds["round"] > 6]
    cost = {"loss": {}, "ndcg": {}}
    for client, rows in late.groupby("client"):
        gains = {}
        for stage in ("local", "replaced"):
            rank = rows[f"rank {stage}"].to_numpy()
            gains[stage] = np.where(rank <= 3, 1 / np.log2(1 + rank), 0).mean()
        cost["ndcg"][client] = gains["local"] - gains["replaced"]
        cost["loss"][client] = (rows["loss replaced"] - rows["loss local"]).mean()
    causes = (found.clients["heterogeneity"].to_dict(), np.log10(found.clients["history"]))
    for row, drop in zip(panels, cost.values(), strict=True):
        for panel, cause, per in zip(row, causes, ("unit", "tenfold"), strict=True):
            sound = [client for client in drop if np.isfinite(cause[client])]
            x, y = [cause[u] for u in sound], [drop[u] for u in sound]
            zero, dots, line = panel.lines
            assert level(zero) == 0
            np.testing.assert_allclose(curve(dots), [x, y])
            slope, height = np.polyfit(x, y, 1)
            at, drawn = curve(line)
            assert (at[0], at[-1]) == pytest.approx((min(x), max(x)))
            np.testing.assert_allclose(drawn, height + slope * np.array(at), atol=1e-12)
            title = panel.get_title(loc="left")
            assert title.startswith(f"slope {slope:+.4f} (")
            assert title.endswith(f") per {per}")
            low, high = (
                float(end) for end in title[title.index("(") + 1 : -len(per) - 6].split(" to ")
            )
            assert low < slope < high
            _, below, above = band(panel, 0)
            assert (below <= np.array(drawn)).all()
            assert (above >= np.array(drawn)).all()
    at = {10**place: name for place, name in ticks(panels[1, 1].xaxis).items()}
    assert list(at.values()) == ["3", "10", "30", "100"]
    assert list(at) == pytest.approx([3, 10, 30, 100])
