"""`fedem audit`."""

from __future__ import annotations

from collections.abc import Sequence

from fedem_jax.cli import process
from fedem_jax.cli.options import Audit
from fedem_jax.cli.parsing import parse


def audit(args: Sequence[str]) -> None:
    """Check whether a protocol leaks held-out items; exit status 1 if it does."""
    config = parse(Audit, "fedem audit", args)

    from fedem_jax.runs.checks import check_free

    if config.out:
        check_free(config.out)
    process.prepare_jax()

    from fedem_jax.analysis.audit import audit
    from fedem_jax.analysis.audit_table import audit_table
    from fedem_jax.report.progress import Progress
    from fedem_jax.report.terminal import Terminal

    class Training(Progress):
        """A progress bar without closing tables, which the audit replaces."""

        def on_end(self, summary, per_client):
            self.__exit__()

    with Training() as progress:
        report = audit(config, observers=[progress])
    Terminal().print(audit_table(report))
    if config.out:
        report.save(config.out)
    if report.leaks:
        raise SystemExit(1)
