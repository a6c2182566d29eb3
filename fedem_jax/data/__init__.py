"""Ratings files to interactions to federations. May import config."""

from fedem_jax.data.catalog import SOURCES, Source
from fedem_jax.data.federation import Federation
from fedem_jax.data.interactions import ColumnsRead, Interactions
from fedem_jax.data.memory import federation
from fedem_jax.data.sources import known_datasets, load, read
from fedem_jax.data.split import split
from fedem_jax.data.synthetic import Truth, synthetic

__all__ = [
    "SOURCES",
    "ColumnsRead",
    "Federation",
    "Interactions",
    "Source",
    "Truth",
    "federation",
    "known_datasets",
    "load",
    "read",
    "split",
    "synthetic",
]
