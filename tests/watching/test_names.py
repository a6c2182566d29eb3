"""What every tracker shares: the names of settings and numbers, and what is said without it."""

import sys

import pytest
from made_up import federation, made_up

import fedem_jax as fj
from fedem_jax.config.fedem import FedEM
from fedem_jax.watching.by_name import TRACKERS
from fedem_jax.watching.metrics import as_text, hyper_parameters, of_round, of_run

CONFIG = FedEM(rounds=2)


@pytest.fixture(scope="module")
def run():
    return made_up(CONFIG)[0]


def test_a_round_is_a_flat_list_of_numbers(run):
    record = run.records[1] | {"rho": [[1, 2]], "skipped": 3}
    numbers = of_round(record)
    assert numbers["val/hr_at_10"] == record["val"]["hr@10"]
    assert numbers["test_full/mrr"] == record["test_full"]["mrr"]
    assert (numbers["loss"], numbers["skipped"]) == (record["loss"], 3)
    assert not {"round", "rho", "protocol", "fingerprint"} & set(numbers)
    assert all(type(value) is float for value in numbers.values())


def test_the_result_is_the_best_validation_round_and_the_totals(run):
    numbers = of_run(run.summary)
    assert numbers["best/round"] == run.summary["headline"]["round"]
    assert numbers["best/test/ndcg_at_10"] == run.summary["headline"]["test"]["ndcg@10"]
    assert numbers["run/bytes_up"] == run.summary["bytes_up"]
    assert not [name for name in numbers if "interval" in name or "best_test" in name]


def test_the_settings_are_those_of_the_data_that_the_run_had():
    data = federation(CONFIG)
    setting = {"config": CONFIG, "federation": data, "device": "1 x cpu", "versions": {}}
    settings = hyper_parameters(setting)
    assert settings["lr_adapter"] == CONFIG.lr_adapter
    assert settings["num_candidates"] == data.protocol.num_candidates > CONFIG.num_candidates == 0
    assert settings["protocol"] == data.protocol.name
    assert settings["fingerprint"] == data.fingerprint
    assert as_text(settings["adapter_widths"]) == "[16, 8]"
    assert as_text("mf") == "mf"


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(fj.UserError) as error:
        TRACKERS[name](tmp_path)
    assert str(error.value).startswith(f"{package} is not installed; ")
    assert f"pip install 'fedem_jax[{name}]'" in str(error.value)
