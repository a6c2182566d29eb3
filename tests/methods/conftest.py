"""The laboratory of each method, compiled once for all tests of a file."""

from functools import cache

import pytest
from lab import Lab, config_of

from fedem_jax.config.registry import METHODS


@pytest.fixture(scope="module")
def labs():
    """One client after the other, in arrays of one size: the laboratory of each method."""
    return cache(lambda method: Lab(config_of(method)))


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def lab(labs, method):
    return labs(method)


@pytest.fixture(scope="module")
def result(lab):
    return lab.run()
