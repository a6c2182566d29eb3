"""The results of an audit as a table for a terminal."""

from __future__ import annotations

from fedem_jax.analysis.verdict import LEVEL, Audit, Share
from fedem_jax.report.tables import Row, Shown, Table, in_terminal, styled
from fedem_jax.units import in_span


def audit_table(audit: Audit) -> Shown:
    """All figures of an audit, its verdict and its reasons."""
    name = f"HR@{audit.top_k}"
    figures = [
        (f"Local-only, {name}", lambda f: f"{f.hit_rate:.4f}"),
        (f"  {LEVEL:.0%} interval", lambda f: in_span(*f.interval)),
        ("  chance", lambda f: f"{f.chance:.4f}"),
        (f"Local-only, {name} among all items", lambda f: f"{f.local_full:.4f}"),
        ("  chance", lambda f: f"{f.chance_full:.4f}"),
        (f"popularity, {name}", lambda f: f"{f.popularity:.4f}"),
        (f"popularity, {name} among all items", lambda f: f"{f.popularity_full:.4f}"),
        ("held-out items met again in training", lambda f: f.recurring),
        ("held-out items barred from negatives", lambda f: f.spared),
        ("held-out items drawn as negatives", lambda f: f.drawn),
        ("candidates drawn as negatives", lambda f: f.candidates_drawn),
    ]
    rows = [Row([label, str(value(audit.val)), str(value(audit.test))]) for label, value in figures]
    split = (
        f"validation and test item are the same for {Share(audit.coinciding, audit.clients)} "
        f"clients; equal timestamps decide the split of {Share(audit.tied_users, audit.clients)}"
    )
    title = (
        f"{audit.dataset} · protocol {audit.protocol.name} · {audit.fingerprint} · "
        f"{audit.rounds} rounds, seed {audit.seed}"
    )
    table = Table(title, ["", "validation", "test"], rows, [split])
    colour = {"leaks": "red", "cannot tell": "yellow", "does not leak": "green"}[audit.verdict]
    subject = "" if audit.verdict == "cannot tell" else "the protocol "
    verdict = styled(f"\nverdict: {subject}{audit.verdict}", f"bold {colour}")
    return in_terminal(table, verdict, *(f"- {reason}" for reason in audit.reasons))
