"""What a method says to have no effect has none: the records of two runs are equal to the bit."""

import dataclasses

import pytest
from toy import small_federation

from fedem_jax.config.presets import preset
from fedem_jax.config.registry import METHODS
from fedem_jax.runs.train import run

OTHER = {
    "local_epochs": 2, "batch_size": 8, "num_negative": 2, "bce": "logit", "lr_network": 0.5,
    "network_widths": (4,), "weight_decay": 0.5, "lr_adapter": 0.7, "adapter": "table",
    "adapter_widths": (3,), "aggregation": "avg", "similarity": "cos", "alpha": 0.2,
    "neighbour_threshold": 0.1, "sparsity_norm": "l2", "schedule": "tanh", "temperature": 0.9,
    "base_temperature": 0.8, "dim": 4, "init_scale": 0.5, "client_fraction": 0.5,
    "table_dtype": "bfloat16", "adapter_loss": "ranking", "adapter_sharing": "average",
    "lr_item_factor": 3.0, "common_share": "0.5", "adapter_optimiser": "sgd",
    "ldp_noise": "gaussian", "ldp_delta": 1e-3, "confidence": 2.0, "regularization": 2.0,
    "weighting": "uniform", "loss": "softmax", "threshold": 0.5, "server_optimiser": "adam",
    "lr_server": 0.5, "beta1": 0.7, "beta2": 0.7, "server_decay": 0.5, "adapter_start": 0.9,
}  # fmt: skip
"""A value of each setting beside the one that it has."""

CASES = {
    "fcf": ("fcf", {}),
    "popularity": ("popularity", {}),
    "item-knn": ("item-knn", {}),
    "ease": ("ease", {}),
    "central-mf": ("central-mf", {"loss": "bpr"}),
    "gpfedrec": ("gpfedrec", {"neighbours": 2}),
    "fedrap": ("fedrap", {"sparsity": 0.0, "independence": 0.0}),
    "cofedrec": ("cofedrec", {"contrast": 0.0}),
    "fedem": ("fedem", {}),
    "fedem none": ("fedem", {"merging": "none"}),
    "fedem replace": ("fedem", {"merging": "replace", "backbone": "ncf"}),
    "fedem table": ("fedem", {"adapter": "table", "aggregation": "sim"}),
    "fedem avg": ("fedem", {"aggregation": "avg"}),
    "fedem shrinkage": ("fedem", {"merging": "shrinkage", "local_optimiser": "sgd"}),
    "fedem features": ("fedem", {"merging": "once", "adapter": "features"}),
    "fedmf": ("fedmf", {"loss": "bpr"}),
    "pfedrec": ("pfedrec", {}),
    "fedem closed form": ("fedem", {"merging": "none", "local_optimiser": "closed-form"}),
}
FEW = {"rounds": 2, "eval_every": 2, "dim": 2, "local_epochs": 1, "num_negative": 3, "top_k": 3}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_has_no_effect_changes_no_record(case):
    method, settings = CASES[case]
    federation = small_federation()
    config = preset("released", method=method, init_scale=0.1, **FEW, **settings)
    idle = config.without_effect()
    assert idle
    changed = dataclasses.replace(config, **{name: OTHER[name] for name in idle})
    assert all(getattr(changed, name) != getattr(config, name) for name in idle)
    first, second = (run(each, federation).records for each in (config, changed))
    for one, other in zip(first, second, strict=True):
        for name in ("loss", "val", "test", "val_full", "test_full", "coverage"):
            assert one[name] == other[name], name


@pytest.mark.parametrize("method", METHODS)
def test_what_has_no_effect_is_a_setting(method):
    config = preset(method=method)
    assert set(config.without_effect()) <= {field.name for field in dataclasses.fields(config)}
