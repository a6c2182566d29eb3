"""The curve of accuracy against noise: what is run, what is refused, what is written."""

import noise
import numpy as np
import pytest
import soak

from fedem_jax.errors import UserError


@pytest.fixture
def dataset(tmp_path):
    soak.ratings(tmp_path / "ratings.csv", np.random.default_rng(0))
    return str(tmp_path / "ratings.csv")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "fcf"], "fcf has no ldp_scale"),
        (["--methods", "gpfedrec", "--clip", "1"], "gpfedrec has no ldp_clip"),
        (["--methods", "fedmf", "--scales", "-1"], "ldp_scale"),
        (["--methods", "fedmv"], "did you mean 'fedmf'"),
    ],
)
def test_what_takes_no_noise_is_refused(dataset, arguments, said):
    with pytest.raises(UserError, match=said):
        noise.measure(["--dataset", dataset, *arguments])


def test_a_curve_of_one_method(monkeypatch, dataset, tmp_path, capsys):
    monkeypatch.setattr(noise.process, "use_all_cores", lambda: None)
    monkeypatch.setattr(noise.process, "cache_programs", lambda: None)
    monkeypatch.setattr(noise, "preset", small(noise.preset))
    out = tmp_path / "out"
    arguments = f"--dataset {dataset} --methods fedmf --scales 0 1 --seeds 2 --rounds 2 --clip 3"
    noise.measure([*arguments.split(), "--out", str(out)])
    text = (out / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert arguments in text
    assert "L1 bound 3" in text
    rows = [line for line in text.splitlines() if line.startswith(("| 0 |", "| 1 |"))]
    assert len(rows) == 2
    assert all("±" in row for row in rows)
    assert (out / "noise.png").stat().st_size > 10_000


def small(preset):
    """A preset that suits a few clients."""

    def changed(*args, **settings):
        few = {"num_candidates": 9, "top_k": 5, "min_interactions": 5, "size_classes": 1}
        return preset(*args, **settings, **few)

    return changed
