"""Federated methods, one file each. May import client, server and all below."""

from __future__ import annotations

from fedem_jax.client.paths import with_path
from fedem_jax.config.base import Config
from fedem_jax.config.registry import METHODS
from fedem_jax.core.algorithm import Algorithm
from fedem_jax.core.layout import Layout


def bind(config: Config, layout: Layout) -> Algorithm:
    """The method that settings belong to, bound to a layout and its path of local training."""
    return METHODS[config.method].load()(with_path(config, layout.device), layout)
