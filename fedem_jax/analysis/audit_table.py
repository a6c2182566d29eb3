"""What an audit found, as a table for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedem_jax.analysis.verdict import LEVEL, Audit, Share


def audit_table(found: Audit) -> RenderableType:
    """All figures of an audit, its verdict and its reasons."""
    name = f"HR@{found.top_k}"
    rows = [
        (f"Local-only, {name}", lambda f: f"{f.hit_rate:.4f}"),
        (f"  {LEVEL:.0%} interval", lambda f: "{:.4f} to {:.4f}".format(*f.interval)),
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
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold",
        title=f"{found.dataset} · protocol {found.protocol.name} · {found.fingerprint} · "
        f"{found.rounds} rounds, seed {found.seed}",
    )  # fmt: skip
    table.add_column("", no_wrap=True)
    table.add_column("validation", justify="right")
    table.add_column("test", justify="right")
    for label, value in rows:
        table.add_row(label, str(value(found.val)), str(value(found.test)))
    split = (
        f"validation and test item are the same for {Share(found.coinciding, found.clients)} "
        f"clients; equal timestamps decide the split of {Share(found.tied_users, found.clients)}"
    )
    colour = {"leaks": "red", "cannot tell": "yellow", "does not leak": "green"}[found.verdict]
    subject = "" if found.verdict == "cannot tell" else "the protocol "
    said = Text.assemble("verdict: ", (subject + found.verdict, f"bold {colour}"))
    return Group(table, Text(split, style="dim"), "", said, *(f"- {r}" for r in found.reasons))
