"""Losses and backbones from outside the package: by Python, `--plugin` and installed packages."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import small_federation

import fedem_jax as fj
from fedem_jax.cli import main as cli
from fedem_jax.config import plugins
from fedem_jax.models.names import BACKBONES, LOSSES
from fedem_jax.runs import simulation
from fedem_jax.testing import check_method

PAGE = (Path(__file__).parents[1] / "docs/howto/losses-and-backbones.md").read_text()
(PLUGIN,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
"""The file of the page that explains all this."""
SMALL = {
    "dim": 4, "rounds": 2, "eval_every": 2, "local_epochs": 2, "size_classes": 1, "top_k": 3,
    "lr_embedding": 0.03,
}  # fmt: skip
MINE = {"loss": "hinge", "backbone": "shifted"}


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    before = [dict(LOSSES), dict(BACKBONES)]
    yield
    for known, saved in zip((LOSSES, BACKBONES), before, strict=True):
        known.clear()
        known.update(saved)
    plugins.load_installed.cache_clear()


@pytest.fixture
def parts(tmp_path):
    """What the file defines, registered."""
    scope = {"__name__": "parts"}
    exec(PLUGIN, scope)
    return scope


def of_fedem(**changes):
    return fj.preset("released", method="fedem", **SMALL | changes)


# --- where the names work -------------------------------------------------------------------------


@pytest.mark.slow
def test_commands_know_the_parts_of_a_file(tmp_path, capsys):
    file, out = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(PLUGIN)
    small = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    given = ["--loss", "hinge", "--backbone", "shifted", "--merging", "none"]
    cli.main(["--plugin", str(file), "train", *small, *given, "--out", str(out), "--quiet"])
    cli.main(["--plugin", str(file), "plan", "--method", "fedmf", "--loss", "hinge"])
    assert "On the wire" in capsys.readouterr().out
    assert fj.open_run(out).config.loss == "hinge"

    LOSSES.pop("hinge")
    remedy = r"'hinge' is unknown; known: bce, bpr, softmax; register a loss of your own first, by"
    with pytest.raises(fj.UserError, match=rf"{re.escape(str(out))}.*{remedy} fj\.register_loss"):
        fj.open_run(out)
    with pytest.raises(SystemExit):
        cli.main(["report", str(out)])
    assert "--plugin FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("loss", "bprr", r"loss: 'bprr' is unknown; did you mean 'bpr'\? known: bce, bpr, softmax"),
        (
            "backbone",
            "mlp",
            r"backbone: 'mlp' is unknown; .*known: mf, ncf; .*register_backbone or",
        ),
        ("backbone", "nfc", r"did you mean 'ncf'\?"),
    ],
)
def test_an_unknown_name_is_refused(name, value, sentence):
    with pytest.raises(fj.UserError, match=sentence):
        of_fedem(**{name: value})


def test_installed_packages_are_asked_when_a_name_is_unknown(monkeypatch):
    def load():
        exec(PLUGIN, {"__name__": "installed"})

    point = SimpleNamespace(name="theirs", value="their.module", load=load)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    assert of_fedem(loss="softmax").loss == "softmax"
    assert "hinge" not in LOSSES
    assert of_fedem(**MINE).loss == "hinge"


@pytest.mark.slow
def test_a_sweep_varies_registered_and_shipped_losses(parts, tmp_path):
    config = fj.preset("released", method="fedmf", **SMALL | {"rounds": 1, "eval_every": 1})
    result = fj.sweep(config, ["loss=hinge,softmax"], federation=small_federation(), seeds=1)
    assert sorted(result.trials["loss"]) == ["hinge", "softmax"]
    assert result.trials["train loss"].between(0, 9).all()
    assert result.plot(tmp_path / "effects.png").exists()


# --- what they compute ----------------------------------------------------------------------------


def test_a_loss_and_a_backbone_of_ones_own_are_those_that_it_copies(parts):
    """Cross-entropy and inner product, written by a user: the same rounds as with those shipped."""

    def mine(logit, label, weight):
        lost = jax.nn.softplus(jnp.where(label > 0, -logit, logit))
        return jnp.sum(weight * lost) / jnp.maximum(weight.sum(), 1)

    class Product(nn.Module):
        dim: int
        scale: float = 1.0

        @nn.compact
        def __call__(self, rows):
            return rows @ self.param("user", nn.initializers.normal(self.scale), (self.dim,))

    fj.register_loss("mine", mine)
    fj.register_backbone("product", Product)
    federation, config = small_federation(), of_fedem(merging="none", bce="logit")
    copy = dataclasses.replace(config, loss="mine", backbone="product")
    ours, theirs = (fj.run(each, federation) for each in (copy, config))
    for one, other in zip(*(jax.tree.leaves(each.state) for each in (ours, theirs)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert ours.records[-1]["val"] == theirs.records[-1]["val"]
    assert ours.records[-1]["loss"] == pytest.approx(theirs.records[-1]["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_method_with_both_keeps_to_all(parts):
    check_method(of_fedem(**MINE, merging="once"))


def test_what_a_registered_backbone_computes_is_planned_with(parts):
    """For each row: what the product gives, and the sum."""
    federation = small_federation()
    plain, own = (
        fj.Simulation(of_fedem(merging="none", backbone=name), federation).algorithm.scratch(1)
        for name in ("mf", "shifted")
    )
    assert own["evaluate"] - plain["evaluate"] == 2 * federation.num_items


def test_programs_with_parts_from_elsewhere_are_compiled_each_time(parts, monkeypatch):
    """Their code may have changed since."""
    compiled, data = [], small_federation()
    monkeypatch.setattr(simulation, "compiled", lambda *_, **__: compiled.append(1) or print)
    for changes, programs in (({}, 1), ({"loss": "hinge"}, 2), ({"backbone": "shifted"}, 2)):
        compiled.clear()
        for _ in range(2):
            made = fj.Simulation(of_fedem(merging="none", **changes), data)
            made.segment(jax.eval_shape(made.algorithm.init, made.key_init, made.unchanging[-1]), 1)
        assert len(compiled) == programs


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("register", "name", "part", "sentence"),
    [
        (fj.register_loss, "bpr", print, "'bpr' is the name of another loss; give another"),
        (fj.register_loss, "hinge", print, "'hinge' is the name of another loss; give another"),
        (fj.register_loss, "My loss", print, "'My loss' is no name of a loss; give small letters"),
        (fj.register_loss, "mine", 3, r"3 cannot be called; see help\(fj\.register_loss\)"),
        (fj.register_backbone, "ncf", print, "'ncf' is the name of another backbone"),
    ],
)
def test_what_cannot_be_registered_is_named(parts, register, name, part, sentence):
    with pytest.raises(fj.UserError, match=f"register_.*: {sentence}"):
        register(name, part)


def test_a_cell_of_a_notebook_may_be_run_again(parts):
    exec(PLUGIN, scope := {"__name__": "parts"})
    assert LOSSES["hinge"] is scope["hinge"]
    assert BACKBONES["shifted"] is scope["Shifted"]


class Wide(nn.Module):
    dim: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, rows):
        return nn.Dense(1)(rows)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loss": "mine"}, r"loss: 'mine' returns float32\[3\] for a batch; a loss returns one"),
        ({"backbone": "mine"}, r"backbone: 'mine' has params and gives float32\[3,1\] for 3 rows"),
        ({"backbone": "none"}, "backbone: 'none' makes int, no flax module with a field `scale`"),
    ],
)
def test_parts_of_another_shape_are_refused(changes, sentence):
    fj.register_loss("mine", lambda logit, label, weight: logit)
    fj.register_backbone("mine", Wide)
    fj.register_backbone("none", int)
    with pytest.raises(fj.UserError, match=sentence):
        fj.Simulation(of_fedem(**changes), small_federation())


def test_a_closed_form_needs_the_inner_product(parts):
    with pytest.raises(fj.UserError, match="closed-form solves for the user vector of backbone=mf"):
        of_fedem(backbone="shifted", merging="none", local_optimiser="closed-form")
    assert of_fedem(backbone="shifted", local_optimiser="sgd").local_optimiser == "sgd"


def test_a_study_of_the_bottleneck_needs_a_sum_over_samples():
    with pytest.raises(fj.UserError, match="sample by sample, which softmax is not; give bce"):
        fj.bottleneck(of_fedem(loss="softmax"), small_federation())
