"""`python -m fedem_jax`: the same as `fedem`."""

from fedem_jax.cli import main

main()
