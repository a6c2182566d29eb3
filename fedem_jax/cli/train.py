"""`fedem train`."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fedem_jax.cli import process
from fedem_jax.cli.cluster import Peers, joined, peers_of
from fedem_jax.cli.options import Train, settings
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.words import without_effect
from fedem_jax.errors import Stopped, UserError

if TYPE_CHECKING:
    from fedem_jax.report.terminal import Terminal
    from fedem_jax.runs.result import Result


def train(args: Sequence[str]) -> None:
    """Run one experiment; `fedem train --help` explains every setting."""
    options, base = settings(Train, "fedem train", args)
    source, config, resume = options.config, options.settings, bool(options.resume)
    peers = peers_of(options.coordinator, options.process_id, options.num_processes)
    check_alone(options, peers)
    has_alternatives = wants_alternatives(options) and not peers.several

    from fedem_jax.runs.checks import check_free, check_settings, first_free
    from fedem_jax.runs.names import ALTERNATIVES, CONFIG, SUMMARY

    notes = []
    if not resume and not config.out:
        usual = dataclasses.replace(config, out=base.out).run_directory()
        if (free := first_free(usual)) != usual:
            notes.append(f"{usual}: already holds a run, so this one goes to {free}.")
        if source or notes:
            config = dataclasses.replace(config, out=str(free))
    out = config.run_directory()
    if not resume:
        if peers.is_first:
            check_free(out)
    elif config.out != options.resume:
        raise UserError("resume: goes on in the folder of the run; leave --out out.")
    elif (out / SUMMARY).exists() and not (has_alternatives and not (out / ALTERNATIVES).exists()):
        if not peers.is_first:
            return
        if options.json:
            print((out / SUMMARY).read_text(encoding="utf-8"), end="")
        elif not options.quiet:
            print(f"{out}: has finished; `fedem report {out}` shows it.")
        return
    else:
        check_settings(out, config)
    process.prepare_jax()

    from fedem_jax.cli.signals import Stopping
    from fedem_jax.report.pictures import draw_run
    from fedem_jax.report.progress import Progress
    from fedem_jax.report.tables import written_files
    from fedem_jax.report.terminal import Terminal
    from fedem_jax.runs.following import run_directory
    from fedem_jax.runs.opened import open_run
    from fedem_jax.runs.train import run
    from fedem_jax.watching.by_name import TRACKERS, names_of

    idle = [
        name for name in config.without_effect() if getattr(config, name) != getattr(base, name)
    ]
    if idle:
        notes.append(f"{without_effect(idle, config.method)}.")

    console = Terminal(stderr=options.json, quiet=options.quiet or not peers.is_first)
    with joined(peers, out), Progress(console, out) as progress, Stopping(progress.say) as stop:
        for note in notes:
            progress.say(note)
        try:
            if (out / SUMMARY).exists():
                result = open_run(out)
            else:
                directory = run_directory(out, resume, progress.say, draw_run)
                names = names_of(options.log_to, out, resume)
                trackers = [TRACKERS[name](out) for name in names]
                result = run(config, None, [progress, *trackers], directory, stop)
                if names and peers.is_first:
                    console.print(written_files(out, names), soft_wrap=True)
            if has_alternatives:
                _show_alternatives(result, stop, console)
        except KeyboardInterrupt as interrupt:
            started = (out / CONFIG).exists()
            rest = " --alternatives yes" if (out / SUMMARY).exists() else ""
            hint = f"go on with `fedem train --resume {out}{rest}`." if started else ""
            raise Stopped(getattr(interrupt, "number", signal.SIGINT), hint) from None
    if options.json and peers.is_first:
        print((out / SUMMARY).read_text(encoding="utf-8"), end="")


def check_alone(options: Train, peers: Peers) -> None:
    """Refuse what several processes cannot do together.

    Raises:
        UserError: they have no folder in common, or are asked for the alternatives.
    """
    if peers.several and not (options.settings.out or options.resume):
        raise UserError("out: several processes write one run; give all of them the same --out.")
    if peers.several and options.alternatives == "yes":
        raise UserError(
            "alternatives: several processes train one run alone; leave --alternatives out, and "
            "ask for them by --resume in a single process."
        )


def wants_alternatives(options: Train) -> bool:
    """Whether the alternatives of the run are to be trained as well.

    Raises:
        UserError: they are asked for, and the method has none.
    """
    config = options.settings
    possible = isinstance(config, FedEM) and bool(config.alternatives())
    if options.alternatives == "yes" and not possible:
        raise UserError(
            f"alternatives: {config.method} merges no tables with these settings, so there is "
            "nothing to compare; leave --alternatives out."
        )
    return possible and (
        options.alternatives == "yes"
        or (
            options.alternatives == "auto"
            and config.dataset == "synthetic"
            and not (options.quiet or options.json)
        )
    )


def _show_alternatives(result: Result, stop: Callable[[], int], console: Terminal) -> None:
    """Train what the clients would get otherwise; write it, draw it and show it."""
    from fedem_jax.report.alternatives import (
        AlternativeProgress,
        alternatives_chart,
        alternatives_table,
    )
    from fedem_jax.report.tables import in_terminal, written_files
    from fedem_jax.runs.alternatives import run_alternatives, write_alternatives
    from fedem_jax.runs.names import ALTERNATIVES, ALTERNATIVES_PICTURE
    from fedem_jax.storage.files import drawing

    path = result.path
    assert path is not None
    found = run_alternatives(result, lambda name: [AlternativeProgress(name, console)], stop)
    with drawing(path, console.say):
        alternatives_chart(found, result.summary, path / ALTERNATIVES_PICTURE)
    write_alternatives(path, found)
    console.print(in_terminal(alternatives_table(found, result.summary)))
    console.print(written_files(path, [ALTERNATIVES, ALTERNATIVES_PICTURE]), soft_wrap=True)
