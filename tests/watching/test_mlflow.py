"""MLflow: what the database says."""

import pytest
from tracked import curve

import fedem_jax as fj

pytest.importorskip("mlflow", reason="needs the extra mlflow")
from mlflow import MlflowClient

# of MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One database for all tests, since it takes a second to make."""
    return tmp_path_factory.mktemp("mlflow")


def client(store):
    return MlflowClient(f"sqlite:///{store / 'mlflow.db'}")


def runs(store, experiment):
    """The runs of an experiment, the oldest first."""
    number = client(store).get_experiment_by_name(experiment).experiment_id
    return client(store).search_runs([number], order_by=["attributes.start_time"])


def history(store, run, name):
    values = client(store).get_metric_history(run.info.run_id, name)
    return [(each.step, each.value) for each in values]


def test_curves_settings_and_result(tracked, store):
    result = tracked.whole(fj.MLflow(store))
    (run,) = runs(store, "fedem_jax")
    for name in ("loss", "bytes_up", "val/hr_at_3", "test_full/ndcg_at_10"):
        assert history(store, run, name) == curve(result, name)
    assert run.info.run_name == "small-toy-leak-free*-seed0"
    assert run.info.status == "FINISHED"
    assert float(run.data.params["lr_embedding"]) == tracked.config.lr_embedding
    assert run.data.params["num_candidates"] == "6"
    best = result.summary["headline"]
    assert run.data.metrics["best/test/hr_at_3"] == pytest.approx(best["test"]["hr@3"])
    assert run.data.metrics["best/round"] == best["round"]
    assert run.info.artifact_uri.startswith(store.as_uri())


def test_ends_of_all_kinds(tracked, store):
    tracked.early(fj.MLflow(store, "ends"))
    tracked.broken(fj.MLflow(store, "ends"))
    early, broken = runs(store, "ends")
    assert early.data.tags["ended_early"] == "enough"
    assert (early.info.status, broken.info.status) == ("FINISHED", "FAILED")
    assert [step for step, _ in history(store, broken, "loss")] == [1, 2]


def test_a_resumed_run_has_all_rounds(tracked, store):
    result = tracked.resumed(lambda: fj.MLflow(store, "resumed"))
    cut, whole = runs(store, "resumed")
    assert [step for step, _ in history(store, cut, "loss")] == [1, 2, 3]
    assert history(store, whole, "loss") == curve(result, "loss")
