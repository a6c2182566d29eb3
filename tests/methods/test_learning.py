"""What can be learnt is learnt, and nothing beyond that without a leak."""

import jax
import numpy as np
import pytest
from lab import config_of
from toy import CHANCE, checkerboard

from fedem_jax.runs.simulation import Simulation

LEARN = {
    "dim": 8, "init_scale": 0.1, "lr_embedding": 0.05, "local_epochs": 2, "bce": "logit",
    "batch_size": 256, "num_negative": 4, "threshold": 1e-4, "client_fraction": 1.0, "rounds": 40,
    "size_classes": 1, "aggregation": "avg", "merging": "replace", "aggregation_fraction": 1.0,
    "top_k": 5,
}  # fmt: skip


def found(method, protocol):
    """HR@5 of validation and test items after the last round."""
    config = config_of(method, **LEARN, protocol=protocol)
    simulation = Simulation(config, checkerboard(protocol), jax.devices()[:1])
    start = simulation.init()
    _, info, ranks = simulation.segment(start, config.rounds)(start, 0)
    record = simulation.record(config.rounds, info, ranks)
    return np.array([record[part]["hr@5"] for part in ("val", "test")])


def test_fedem_finds_the_withheld_items():
    assert (found("fedem", "leak-free") > 0.7).all()


@pytest.mark.parametrize("method", ["ease", "item-knn"])
def test_similar_items_find_the_withheld_items(method):
    assert (found(method, "leak-free") > 0.7).all()


def test_popularity_knows_no_taste():
    """All items are equally popular, but for those that are held out."""
    assert (found("popularity", "leak-free") < CHANCE + 0.15).all()


def test_clients_alone_know_nothing_of_new_items_unless_the_protocol_leaks_them():
    assert (found("local-only", "leak-free") < CHANCE + 0.15).all()
    assert (found("local-only", "paper") > 0.9).all()
