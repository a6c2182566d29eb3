"""Defaults, presets and protocols as literals, each with its source: a changed one fails here.

The sources are the programs of the authors; what no program says is a choice of this package.
"""

import dataclasses

import pytest

from fedem_jax.config.base import INERT
from fedem_jax.config.file import load_settings
from fedem_jax.config.presets import RELEASED, UNKNOWN, preset
from fedem_jax.config.protocol import PROTOCOLS
from fedem_jax.config.registry import METHODS
from fedem_jax.config.tuned import tuned

OURS = {
    "dataset": "synthetic", "protocol": "leak-free", "out": "", "eval_every": 1, "patience": 0,
    "on_nonfinite": "stop", "per_client": False, "checkpoint_every": 0, "checkpoint_minutes": 5.0,
    "keep": "best-and-last", "start": "",
    "negative_pool": "", "candidates": "", "selection": "", "ties": "", "scale": "", "repeats": "",
    "num_candidates": 0, "min_interactions": 0, "split": "", "val_share": 0.0, "test_share": 0.0,
    "min_rating": 0.0, "min_item_interactions": 0, "k_core": 0, "val_file": "", "test_file": "",
    "cohort": "", "data_dir": "", "columns": (), "separator": "",
    "encoding": "", "decimal": "", "order": "", "ties_latest": "first",
    "header": "auto", "block_size": 0, "size_classes": 0, "client_memory": "device",
    "gpu_loops": "graph",
    "table_dtype": "float32", "dropout": 0.0, "stragglers": 0.0,
}  # fmt: skip
"""Of this package: rules, files, and how the work is cut. No released program has a say here."""

FAMILY = {
    # all released programs: 100 rounds, 4 negatives, batches of 256, all clients train in every
    # round, HR@10 and NDCG@10; FedCA, FedEM: width 16, at most 10 epochs, seed 0
    "rounds": 100, "num_negative": 4, "batch_size": 256, "client_fraction": 1.0, "top_k": 10,
    "dim": 16, "local_epochs": 10, "seed": 0,
    # defaults of their framework: tables from N(0, 1); the loss is taken of probabilities
    "init_scale": 1.0, "bce": "probability",
}  # fmt: skip
"""What the released programs share."""

SAMPLED = {"loss": "bce"}
"""All released programs train by cross-entropy."""

NO_NOISE = {"ldp_scale": 0.0, "ldp_clip": 0.0, "ldp_noise": "laplace", "ldp_delta": 1e-5}
"""Nothing is added to uploads in any default."""

NO_MASKS = {"secure_sum": False}
"""Uploads are sent as they are."""

NO_STEP = {
    "server_optimiser": "none", "lr_server": 0.05, "beta1": 0.4, "beta2": 0.99, "server_decay": 0.0,
}  # fmt: skip
"""The server takes the average; the numbers, of its Adam, are those of FCF. No program has its
penalty, which is off."""

BY_ADAM = {"local_optimiser": "adam", "lr_item_factor": 80.0}
"""Clients train by Adam; the factor, of plain steps, is that of PFedRec."""

DEFAULTS = {
    # program of FedEM: Adam at 0.1 twice, alpha 0.9, l2, both, a tenth is aggregated, 1e-4;
    # adapter 2d-16-8-1. Its network is that of FedNCF in the program of FedCA; its closed form
    # has the numbers of FCF
    "fedem": SAMPLED | NO_NOISE | NO_STEP | BY_ADAM | {
        "weighting": "samples", "local_training": "auto", "confidence": 4.0, "regularization": 1.0,
        "backbone": "mf", "lr_embedding": 0.1, "lr_adapter": 0.1, "threshold": 1e-4,
        "aggregation": "both", "similarity": "l2", "alpha": 0.9, "aggregation_fraction": 0.1,
        "merging": "per-batch", "adapter": "row", "adapter_widths": (16, 8),
        "adapter_samples": "trained", "adapter_holdout": 0.0, "adapter_loss": "cross-entropy",
        "adapter_sharing": "none", "adapter_optimiser": "adam", "adapter_start": 0.5,
        "common_share": "fitted",
        "network_widths": (16, 8), "lr_network": 0.01, "weight_decay": 1e-3,
    },
    # the client of FedEM
    "local-only": SAMPLED | {"lr_embedding": 0.1, "threshold": 1e-4, "local_training": "auto"},
    # in one round there is all; no program, the numbers found as those of central-mf
    "popularity": {"rounds": 1},
    "item-knn": {"rounds": 1, "neighbours": 10, "shrinkage": 10.0},
    "ease": {"rounds": 1, "l2": 300.0},
    # no program: found on the validation items of ml-100k under leak-free
    "central-mf": {
        "local_epochs": 1, "batch_size": 1024, "init_scale": 0.1, "lr_embedding": 0.003,
        "weight_decay": 5e-6, "loss": "bce",
    },
    # hongleizhang/FedCA, backbone FCF without its own aggregation: Adam at 0.01, sample shares, the
    # new table is evaluated
    "fedmf": SAMPLED | NO_NOISE | NO_MASKS | NO_STEP | BY_ADAM | {
        "local_training": "auto",
        "lr_embedding": 0.01, "threshold": 1e-4, "weighting": "samples", "evaluated": "global",
    },
    # no program; the betas: Ammad-ud-din et al. 2019; the rest: as central-mf
    "fcf": {
        "init_scale": 0.1, "confidence": 4.0, "regularization": 1.0, "lr_server": 0.05,
        "beta1": 0.4, "beta2": 0.99, "server_steps": 1,
    },
    # hongleizhang/FedCA, backbone FedNCF: layers 32-16-8-1, Adam at 0.01 twice, decay 1e-3
    "fedncf": SAMPLED | NO_NOISE | NO_MASKS | NO_STEP | BY_ADAM | {
        "local_training": "xla",
        "lr_embedding": 0.01, "threshold": 1e-4, "weighting": "samples", "evaluated": "global",
        "variant": "mlp", "network_widths": (16, 8), "lr_network": 0.01, "weight_decay": 1e-3,
    },
    # Zhangcx19/IJCAI-23-PFedRec: lr 0.1, lr_eta 80, one epoch, width 32, own table evaluated
    "pfedrec": SAMPLED | NO_NOISE | NO_MASKS | NO_STEP | {
        "dim": 32, "local_epochs": 1, "lr_network": 0.1, "lr_item_factor": 80.0,
        "evaluated": "local",
    },
    # Zhangcx19/GPFedRec: layers 64-32-16-8-1, reg 1, neighbours beyond 1.0 times the mean of the
    # cosine distances, one layer, no noise
    "gpfedrec": SAMPLED | {
        "dim": 32, "local_epochs": 1, "network_widths": (32, 16, 8), "lr_network": 0.1,
        "lr_factor": 80.0, "regularization": 1.0, "graph": "distance", "neighbours": 0,
        "neighbour_threshold": 1.0, "layers": 1, "ldp_scale": 0.0,
    },
    # mtics/FedRAP: lr_network 0.5, lr_args 200, lambda and mu 0.1, l1, decay 1e-4, rates times 0.95
    # after a batch and 0.97 after a round, batches of 2048
    "fedrap": SAMPLED | {
        "dim": 32, "batch_size": 2048, "lr_network": 0.5, "lr_embedding": 200.0,
        "independence": 0.1, "sparsity": 0.1, "sparsity_norm": "l1", "schedule": "constant",
        "weight_decay": 1e-4, "decay_per_batch": 0.95, "decay_per_round": 0.97, "threshold": 1e-4,
    },
    # hongleizhang/FedCA: alpha and beta 0.3, 4 directions, interpolation 0.9, a tenth is aggregated
    "fedca": SAMPLED | {
        "lr_embedding": 0.01, "threshold": 1e-4, "aggregation_fraction": 0.1,
        "similarity_weight": 0.3, "complementarity_weight": 0.3, "directions": 4,
        "subspace": "samples", "matching": "greedy", "interpolation": 0.9,
    },
    # Xinrui17/CoFedRec: K 30, reg 0.005, cl_t 0.1, its base 0.5, two epochs
    "cofedrec": SAMPLED | {
        "dim": 32, "local_epochs": 2, "lr_network": 0.1, "lr_item_factor": 80.0,
        "num_clusters": 30, "contrast": 0.005, "temperature": 0.1, "base_temperature": 0.5,
    },
}  # fmt: skip
"""What each method has beside or in the place of `OURS` and `FAMILY`."""

ON_DATA = {
    # log posted by the authors: lr_network 0.5, lr_args 1000, lambda and mu 0.01, decay 1e-4
    ("fedrap", "ml-1m"): {"lr_embedding": 1000.0, "independence": 0.01, "sparsity": 0.01},
    # script of the program of FedEM
    ("fedmf", "lastfm-2k"): {"lr_embedding": 0.1},
    # paper of CoFedRec, by a second hand: K 45 and tau 0.5; K 500
    ("cofedrec", "ml-1m"): {"num_clusters": 45, "temperature": 0.5},
    ("cofedrec", "lastfm-2k"): {"num_clusters": 500},
}
"""Where a released program leaves its defaults."""

DATA = ("synthetic", "ml-100k", "ml-1m", "filmtrust", "lastfm-2k", "amazon-video")

RULES = {
    # this package: a held-out item may be a training negative, rounds are chosen on validation
    "leak-free": {
        "negative_pool": "untrained", "candidates": "split", "selection": "validation",
        "ties": "pessimistic", "scale": "logit", "repeats": "collapse", "num_candidates": 99,
        "min_interactions": 10,
    },
    # FedRAP, FedCA, FedEA, FedEM: one list of 99 for both, the best test round, at least 10
    "paper": {
        "negative_pool": "unseen", "candidates": "shared", "selection": "test",
        "ties": "pessimistic", "scale": "probability", "repeats": "keep", "num_candidates": 99,
        "min_interactions": 10,
    },
    # PFedRec, GPFedRec, CoFedRec: 198 drawn, the first 99 for validation, the last 99 for test; the
    # best validation round; users are not filtered, and a split needs 3 interactions
    "paper-p": {
        "negative_pool": "unseen", "candidates": "split", "selection": "validation",
        "ties": "pessimistic", "scale": "probability", "repeats": "keep", "num_candidates": 99,
        "min_interactions": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_those_of_the_source(method):
    expected = OURS | FAMILY | DEFAULTS[method] | {"method": method}
    assert dataclasses.asdict(METHODS[method].settings()) == expected


@pytest.mark.parametrize("dataset", DATA)
@pytest.mark.parametrize("method", METHODS)
def test_released_settings_are_those_of_the_source(method, dataset):
    expected = OURS | FAMILY | DEFAULTS[method] | {"method": method, "dataset": dataset}
    expected |= ON_DATA.get((method, dataset), {})
    assert dataclasses.asdict(preset("released", dataset=dataset, method=method)) == expected


def test_no_other_data_have_released_settings_of_their_own():
    assert RELEASED.keys() == ON_DATA.keys()


@pytest.mark.parametrize("dataset", DATA)
@pytest.mark.parametrize("method", METHODS)
def test_auto_is_tuned_without_the_leak_and_released_with_it(method, dataset):
    name = "tuned" if (method, dataset) in tuned() else "released"
    unknown = {} if name == "tuned" else UNKNOWN.get(method, {})
    chosen = preset(dataset=dataset, method=method)
    assert chosen == preset("auto", dataset=dataset, method=method)
    assert chosen == preset(name, dataset=dataset, method=method, **unknown)
    leaky = {"dataset": dataset, "method": method, "protocol": "paper"}
    assert preset(**leaky) == preset("released", **leaky)


def test_settings_for_unknown_data_are_valid_and_learn_by_what_the_caller_asks():
    for method, values in UNKNOWN.items():
        chosen = preset(dataset="mine.csv", method=method, rounds=7)
        assert {name: getattr(chosen, name) for name in values} == values
        assert chosen.rounds == 7
        assert preset("released", dataset="mine.csv", method=method, **values, rounds=7) == chosen


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_are_those_of_the_source(name):
    later = {
        "split": "leave-one-out", "val_share": 0.1, "test_share": 0.1, "min_rating": 0.0,
        "min_item_interactions": 1, "k_core": 0,
    }  # fmt: skip
    assert dataclasses.asdict(PROTOCOLS[name]) == RULES[name] | later | {"name": name}


@pytest.mark.parametrize(("method", "dataset"), tuned())
def test_tuned_settings_are_valid(tmp_path, method, dataset):
    """Known names, in range and of the right type, as a file of settings must have them; and no
    more than a search varies."""
    values = tuned()[method, dataset].settings
    assert not values.keys() & {"dataset", "method", "protocol", "seed", *INERT}
    config = preset("tuned", dataset=dataset, method=method)
    config.save(tmp_path / "config.json")
    assert load_settings(tmp_path / "config.json") == config
    assert (
        dataclasses.asdict(config)
        == dataclasses.asdict(METHODS[method].settings(dataset=dataset)) | values
    )
