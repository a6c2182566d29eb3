"""`python -m fedem_jax`: the same as `fedem`."""

from fedem_jax.cli.main import main

main()
