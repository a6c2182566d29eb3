"""Epsilon of normal noise: the exact formula, its order, and what a run says of it."""

import importlib
import io
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from scipy.optimize import brentq
from scipy.stats import norm
from toy import small_federation

from fedem_jax.config.fedem import FedEM
from fedem_jax.config.settings import FedMF, FedNCF, LocalOnly, PFedRec
from fedem_jax.errors import UserError
from fedem_jax.evaluation.accountant import gaussian_epsilon, guarantee, mean_epsilon
from fedem_jax.report.run_tables import closing
from fedem_jax.runs.train import run

MISSING = "the extra `privacy` (dp-accounting) is not installed"
NOISY = {"ldp_clip": 1.0, "ldp_scale": 4.0, "ldp_noise": "gaussian"}
FEW = {"rounds": 2, "dim": 2, "local_epochs": 1, "top_k": 3}


@pytest.fixture
def package():
    return pytest.importorskip("dp_accounting", reason=MISSING)


def exact(shift, deviation, delta):
    """Epsilon at which N(0, deviation^2) and the same, moved by `shift`, differ by delta."""

    def excess(epsilon):
        a, b = shift / (2 * deviation), epsilon * deviation / shift
        return norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b) - delta

    return brentq(excess, 0, 700)


@pytest.mark.parametrize("clip", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("uploads", [1, 7, 100])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
def test_epsilon_is_that_of_two_normals_twice_the_bound_apart(package, clip, uploads, delta):
    """So many uploads are one whose shift is longer by the root of their number."""
    expected = exact(2 * clip * math.sqrt(uploads), 5.0, delta)
    assert gaussian_epsilon(clip, 5.0, delta, uploads) == pytest.approx(expected, rel=1e-6)


def test_there_is_no_guarantee_without_a_bound_or_without_noise():
    for clip, scale in ((0.0, 1.0), (1.0, 0.0)):
        assert gaussian_epsilon(clip, scale, 1e-5) == math.inf
        assert mean_epsilon(clip, scale, 1e-5, 10, 5, 50) == math.inf


@pytest.mark.parametrize("rounds", [1, 20])
def test_a_mean_of_everybody_is_an_upload_with_the_noise_of_all(package, rounds):
    exactly = gaussian_epsilon(1.0, 3.0 * math.sqrt(40), 1e-5, rounds)
    assert mean_epsilon(1.0, 3.0, 1e-5, rounds, 40, 40) == exactly
    accountant = package.rdp.RdpAccountant(
        neighboring_relation=package.NeighboringRelation.REPLACE_ONE
    )
    event = package.GaussianDpEvent(3.0 * math.sqrt(40) / 2)
    accountant.compose(package.SelfComposedDpEvent(event, rounds))
    assert exactly < accountant.get_epsilon(1e-5) < 1.2 * exactly  # a multiplier means the same


def test_who_is_hidden_among_more_clients_is_safer(package):
    among = [mean_epsilon(1.0, 1.0, 1e-5, 50, 40, clients) for clients in (40, 60, 100, 400)]
    assert all(more >= less > 0 for more, less in pairwise(among))
    assert among[0] == among[1] > 2 * among[3]
    longer = [mean_epsilon(1.0, 1.0, 1e-5, rounds, 40, 400) for rounds in (1, 10, 100)]
    assert longer == sorted(longer)


def test_the_numbers_of_the_documentation_are_computed(package):
    text = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
    written = re.findall(r"^(gaussian|mean)_epsilon\((.*)\)  # ([\d.]+)$", text, re.MULTILINE)
    assert len(written) == 2
    for name, arguments, shown in written:
        numbers = {key: float(value) for key, value in re.findall(r"(\w+)=([\w.-]+)", arguments)}
        counts = {
            key: int(numbers[key]) for key in ("rounds", "uploads", "clients") if key in numbers
        }
        epsilon = gaussian_epsilon if name == "gaussian" else mean_epsilon
        assert f"{epsilon(**numbers | counts):.3g}" == shown


def test_a_run_without_noise_and_bound_guarantees_nothing():
    settings = (
        LocalOnly(), FedMF(), FedMF(ldp_noise="gaussian", ldp_scale=1.0),
        FedMF(ldp_noise="gaussian", ldp_clip=1.0), FedMF(ldp_scale=1.0, ldp_clip=1.0),
    )  # fmt: skip
    assert [guarantee(config, 10, 50) for config in settings] == [None] * len(settings)


@pytest.mark.parametrize("kind", [FedEM, FedMF, FedNCF, PFedRec])
def test_the_guarantee_counts_all_rounds(package, kind):
    found = guarantee(kind(**NOISY, client_fraction=0.5, dropout=0.2), 30, 100)
    assert found is not None
    assert found["epsilon"] == gaussian_epsilon(1.0, 4.0, 1e-5, 30)
    assert (found["unit"], found["delta"]) == ("client", 1e-5)
    assert ("epsilon_of_means" in found) == (kind is PFedRec)  # the others weigh by samples
    even = guarantee(FedMF(**NOISY, client_fraction=0.5, dropout=0.2, weighting="uniform"), 30, 100)
    assert even is not None
    assert even["epsilon_of_means"] == mean_epsilon(1.0, 4.0, 1e-5, 30, 40, 100)
    assert even["epsilon_of_means"] < even["epsilon"]


def shown(summary):
    text = io.StringIO()
    Console(width=400, file=text).print(closing(summary))
    return text.getvalue()


def test_summary_and_report_of_a_run_have_it(package):
    summary = run(FedMF(**FEW, **NOISY, ldp_delta=1e-3), small_federation()).summary
    assert summary["privacy"] == {
        "unit": "client", "delta": 1e-3, "epsilon": gaussian_epsilon(1.0, 4.0, 1e-3, 2),
    }  # fmt: skip
    text = shown(summary)
    epsilon = summary["privacy"]["epsilon"]
    assert f"privacy: epsilon {epsilon:.3g} and delta 0.001, for all uploads of a client" in text
    plain = run(FedMF(**FEW), small_federation()).summary
    assert "privacy" not in plain
    assert "privacy" not in shown(plain)


def test_without_the_package_a_run_says_what_is_missing(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    found = guarantee(FedMF(**NOISY), 10, 50)
    assert found == {"unit": "client", "delta": 1e-5}
    for epsilon in (gaussian_epsilon, lambda *args: mean_epsilon(*args, 10, 5, 50)):
        with pytest.raises(UserError, match=r"pip install 'fedem_jax\[privacy\]'"):
            epsilon(1.0, 1.0, 1e-5)
