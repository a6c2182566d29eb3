"""The program of docs/howto/transform.md: runs under vmap are the single runs."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import fedem_jax as fj

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "transform.md"


@pytest.fixture(scope="module")
def page():
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    scope: dict = {}
    with jax.default_matmul_precision("highest"):
        exec(compile(code, "transform.md", "exec"), scope)
    return scope


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_each_is_the_run_by_itself(page, number):
    seed, lr = int(page["seeds"][number]), float(page["rates"][number])
    config = dataclasses.replace(page["config"], seed=seed, lr_embedding=lr, rounds=2)
    users = page["shop"].user_ids[:5]
    alone = fj.run(config, page["shop"], devices=jax.devices()[:1]).scores(users, round="last")
    np.testing.assert_allclose(page["scores"][number], alone, rtol=1e-5, atol=1e-5)


def test_the_six_differ(page):
    flat = np.asarray(page["scores"]).reshape(6, -1)
    assert len(np.unique(flat, axis=0)) == 6
