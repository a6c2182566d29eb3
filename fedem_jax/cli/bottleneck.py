"""`fedem bottleneck`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from fedem_jax.cli import process
from fedem_jax.cli.options import Bottleneck
from fedem_jax.cli.parsing import parse
from fedem_jax.config.fedem import FedEM


def bottleneck(args: Sequence[str]) -> None:
    """Measure what aggregation costs the clients, and what merging saves."""
    options = parse(Bottleneck, "fedem bottleneck", args)
    stem = Path(options.dataset).stem or "data"
    out = Path(options.out or Path("results") / f"bottleneck-{stem}-{options.protocol}")
    fields = (field.name for field in dataclasses.fields(FedEM))
    config = FedEM(**{name: getattr(options, name) for name in fields})

    from fedem_jax.runs.checks import check_free

    check_free(out)
    process.prepare_jax()

    from fedem_jax.analysis.bottleneck import bottleneck
    from fedem_jax.analysis.bottleneck_tables import FILES, save, shown
    from fedem_jax.report.progress import Progress
    from fedem_jax.report.tables import written_files
    from fedem_jax.report.terminal import Terminal

    with Progress() as progress:
        result = bottleneck(config, observers=[progress], alone=options.alone)
    console = Terminal()
    save(result, out, console.say)
    console.print(shown(result))
    console.print(written_files(out, FILES), soft_wrap=True)
