"""`fedem train`."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence

from fedem_jax.cli import process
from fedem_jax.cli.options import Train, settings
from fedem_jax.config.words import without_effect
from fedem_jax.errors import Stopped, UserError


def train(args: Sequence[str]) -> None:
    """Run one experiment; `fedem train --help` explains every setting."""
    options, base = settings(Train, "fedem train", args)
    source, config, resume = options.config, options.settings, bool(options.resume)

    from fedem_jax.runs.checks import check_free, check_settings, first_free
    from fedem_jax.runs.names import CONFIG, SUMMARY

    notes = []
    if not resume and not config.out:
        usual = dataclasses.replace(config, out=base.out).run_directory()
        if (free := first_free(usual)) != usual:
            notes.append(f"{usual}: already holds a run, so this one goes to {free}.")
        if source or notes:
            config = dataclasses.replace(config, out=str(free))
    out = config.run_directory()
    if not resume:
        check_free(out)
    elif config.out != options.resume:
        raise UserError("resume: goes on in the folder of the run; leave --out out.")
    elif (out / SUMMARY).exists():
        print(f"{out}: has finished; `fedem report {out}` shows it.")
        return
    else:
        check_settings(out, config)
    process.prepare_jax()

    from fedem_jax.cli.signals import Stopping
    from fedem_jax.report.pictures import draw_run
    from fedem_jax.report.progress import Progress
    from fedem_jax.runs.directory import RunDirectory
    from fedem_jax.runs.train import run

    idle = [
        name for name in config.without_effect() if getattr(config, name) != getattr(base, name)
    ]
    if idle:
        notes.append(f"{without_effect(idle, config.method)}.")

    with Progress(directory=out) as progress, Stopping(progress.say) as stop:
        for note in notes:
            progress.say(note)
        try:
            run(config, None, [progress], RunDirectory(out, resume, progress.say, draw_run), stop)
        except KeyboardInterrupt as interrupt:
            started = (out / CONFIG).exists()
            hint = f"go on with `fedem train --resume {out}`." if started else ""
            raise Stopped(getattr(interrupt, "number", signal.SIGINT), hint) from None
