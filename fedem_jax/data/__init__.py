"""Ratings files in, federations out. pandas lives here and nowhere else."""

from fedem_jax.data.federation import Federation
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.sources import SOURCES, Source, known_datasets, load, read
from fedem_jax.data.split import split
from fedem_jax.data.synthetic import Truth, synthetic

__all__ = [
    "SOURCES",
    "Federation",
    "Interactions",
    "Source",
    "Truth",
    "known_datasets",
    "load",
    "read",
    "split",
    "synthetic",
]
