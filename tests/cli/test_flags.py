"""Every flag of every command reaches what it is for. Which flags there are, the commands say.

Each command runs up to where its work begins, with all its flags at values that are not theirs by
default; what stands in for the work keeps what it was given.
"""

import dataclasses
import importlib
import pkgutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import tyro
from made_up import federation

import fedem_jax
from fedem_jax.cli import main as cli
from fedem_jax.config.base import Config
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.presets import preset
from fedem_jax.config.registry import METHODS
from fedem_jax.config.settings import FedMF
from fedem_jax.data import readers, sources
from fedem_jax.data.fileformat import FileFormat
from fedem_jax.data.synthetic import embedded
from fedem_jax.runs.reading import Run
from fedem_jax.runs.train import run

# a module that is imported later would keep what only stands in for a function in a test
for module in pkgutil.walk_packages(fedem_jax.__path__, "fedem_jax."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

STARTS = [
    ("train", "config"), ("train", "preset"), ("train", "resume"), ("plan", "config"),
    ("plan", "preset"), ("sweep", "config"), ("sweep", "preset"), ("compare", "preset"),
]  # fmt: skip
"""Flags that name what all other settings start from; each is tested by itself."""

WORDS: dict[str, Any] = {
    "dataset": "mine.csv", "protocol": "paper", "out": "here", "merging": "once", "separator": ";",
    "columns": ("who", "what"), "data_dir": "there", "encoding": "latin-1",
    "start": "before", "val_file": "val.csv", "test_file": "test.csv", "cohort": "country",
    "split": "given", "common_share": "0.25", "loss": "bpr", "backbone": "ncf",
    "aggregation": "avg",
}  # fmt: skip
"""Values of settings that may be any text, or must fit others."""

OWN: dict[str, dict[str, Any]] = {
    "sweep": {
        "vary": ("init_scale=0.2,0.3", "dim=4,8"), "space": "space.json", "seeds": 2,
        "search": "random", "trials": 5, "search_seed": 6, "halving": 3, "select": "val_full",
        "width": 7, "chunk": 8,
    },
    "bottleneck": {"alone": 9},
    "plan": {"devices": 6, "device_memory": "80GB"},
    "compare": {
        "dataset": "mine.csv", "protocol": "paper", "methods": ("fedmf", "fedem:dim=8"),
        "seeds": 2, "rounds": 7, "settings": ("top_k=6", "header=yes"), "reach": 0.25,
        "out": "here", "data_dir": "there",
    },
    "report": {"directories": ("a", "b"), "picture": "both.png", "html": "both.html"},
}  # fmt: skip
"""Values of the flags that are no settings of a method."""

TOGETHER = ("coordinator", "process_id", "num_processes", "shard", "collect", "storage")
TESTED_ELSEWHERE = ("alternatives", "quiet", "json", "log_to", *TOGETHER)
"""Flags that change no setting."""

FULL = ("train", "plan", "sweep")
"""Commands that take all settings of any method."""


class ArrivedError(Exception):
    """The work was about to begin."""


# --- which flags there are, and values for them ---------------------------------------------------


def flags(kind: type, start: Any = None) -> dict[str, tuple[Any, Any]]:
    """Type and default of every flag of a command that reads a `kind`; those of settings in it, as
    in `start`, are flags as well."""
    found = {}
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, default = hints[field.name], getattr(start, field.name, field.default)
        if isinstance(default, Config):
            found |= flags(type(default), default)
        elif tyro.conf.Suppress not in getattr(hint, "__metadata__", ()):
            found[field.name] = (hint, default)
    return found


def flags_of(command: str, *args: str) -> dict[str, tuple[Any, Any]]:
    """The flags that a command asks the parser for, where its arguments begin so."""

    def asked(kind, *, default=None, **_):
        raise ArrivedError(kind, default)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tyro, "cli", asked)
        with pytest.raises(ArrivedError) as arrived:
            cli.COMMANDS[command](args)
    return flags(*arrived.value.args)


def another(name: str, hint: Any, default: Any, number: int) -> Any:
    """A value that a setting may have and that is not its default; None: it has but one.

    Args:
        number: of the setting, so that numbers of two settings differ.
    """
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if name in WORDS:
        return WORDS[name]
    if get_origin(kind) is Literal:
        return next((value for value in get_args(kind) if value and value != default), None)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return 1000 + number
    if isinstance(default, float):
        return default * (0.5 + number / 1000) if default else 0.1 + number / 1000
    assert isinstance(default, tuple), f"--{name} is a flag without a value in this test"
    return (number, number + 1)


def values_of(command: str, method: str = "") -> dict[str, Any]:
    """A value for every flag of a command, but for those of `STARTS`."""
    chosen = ["--method", method] if method else []
    refusing = METHODS[method or ("local-only" if command == "audit" else "fedem")]
    values = {}
    for number, (name, (hint, default)) in enumerate(flags_of(command, *chosen).items(), 1):
        if (command, name) in (
            *STARTS,
            ("sweep", "start"),
            ("sweep", "patience"),
            ("sweep", "client_memory"),
            ("bottleneck", "client_memory"),
        ):  # which these commands refuse
            continue
        if name in TESTED_ELSEWHERE:
            continue
        if name == "method":
            values[name] = method
        elif name in OWN.get(command, {}):
            values[name] = OWN[command][name]
        elif name == "secure_sum":
            continue  # masks are refused beside noise and lost uploads, which these have here
        elif name == "local_optimiser" and method != "fedmf":
            continue  # plain steps are refused beside a network, which these have here
        elif name in refusing.settings().refusals():
            continue  # may be nothing but 0
        elif (method, name) != ("gpfedrec", "client_fraction"):  # may be nothing but 1
            value = another(name, hint, default, number)
            values |= {} if value is None else {name: value}
    return values


def as_arguments(values: dict[str, Any]) -> list[str]:
    """As they are written on the command line."""
    written = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "directories":
            written = [*value, *written]
        elif name == "vary":
            written += [part for each in value for part in (flag, each)]
        elif isinstance(value, bool):
            written.append(flag if value else flag.replace("--", "--no-"))
        elif isinstance(value, tuple):
            written += [flag, *map(str, value)]
        else:
            written += [flag, str(value)]
    return written


# --- where the work begins ------------------------------------------------------------------------


@pytest.fixture
def work(monkeypatch, tmp_path) -> SimpleNamespace:
    """What the work of the commands was given; nothing is computed."""
    given = SimpleNamespace(configs=[], called={})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)

    def replace(module: str, **by):
        for name, new in by.items():
            monkeypatch.setattr(importlib.import_module(f"fedem_jax.{module}"), name, new)

    def data_of(config, *_):
        given.configs.append(config)
        return federation()

    def keep(**values):
        given.called |= values

    def arrived(**values):
        keep(**values)
        raise ArrivedError

    def begun(config, data, observers=(), directory=None, *_):
        given.configs.append(config)
        keep(directory=directory)
        given.runs = [*getattr(given, "runs", ()), config]

    def written(result, out, *_):
        keep(out=str(out))
        return ""

    # each may load its data
    replace("data.sources", federation_of=data_of)
    replace("analysis.audit", federation_of=data_of)
    replace("analysis.bottleneck", federation_of=data_of)
    replace("sweeps.run", federation_of=data_of)

    replace("runs.train", run=begun)
    replace("cli.train", wants_alternatives=lambda _: False)

    def trial(config, **how):
        given.configs.append(config)
        keep(**how)

    replace("analysis.cost", plan=trial)
    replace("analysis.cost_tables", shown=lambda _: "")

    auditing = importlib.import_module("fedem_jax.analysis.audit")
    audit = auditing.audit

    def audited(config, observers):
        with suppress(ArrivedError):
            audit(config)
        return SimpleNamespace(leaks=False, save=lambda out: keep(out=out))

    def alone(config, *_):
        given.configs.append(config)
        raise ArrivedError

    replace("analysis.audit", audit=audited, run=alone)
    replace("analysis.audit_table", audit_table=lambda _: "")

    bottleneck = importlib.import_module("fedem_jax.analysis.bottleneck").bottleneck
    still = SimpleNamespace(
        init=lambda: None,
        segment=lambda *_: lambda *_: (None, None, None),
        record=lambda *_: {},
    )

    def still_trial(config, _):
        given.configs.append(config)
        return still

    def looked_at(config, observers, **how):
        with suppress(ArrivedError):
            bottleneck(config, **how)

    replace(
        "analysis.bottleneck", bottleneck=looked_at, Simulation=still_trial,
        check_list=lambda *_: None,
        reader=lambda _: lambda *_: None, in_rows=lambda *_: None,
        trained_on=lambda trial, state, rounds: arrived(alone=rounds),
    )  # fmt: skip
    replace(
        "analysis.bottleneck_tables",
        save=lambda found, out, say: keep(out=str(out)),
        shown=lambda _: "",
    )

    run_sweep = importlib.import_module("fedem_jax.sweeps.run").run_sweep

    def swept(*args, **how):
        with suppress(ArrivedError):
            run_sweep(*args, **how)

    def runner(wanted, federations, ledger, *, width, chunk, watch, kept):
        given.configs.append(wanted.config)
        arrived(
            space=str(wanted.varied[0]), vary=tuple(map(str, wanted.varied[1:])),
            seed=wanted.seeds[0], seeds=len(federations), search=wanted.search,
            trials=wanted.trials, search_seed=wanted.search_seed, halving=wanted.halving,
            select=ledger.metric.split()[0], width=width, chunk=chunk,
        )  # fmt: skip

    (tmp_path / "space.json").write_text('{"num_negative": [2, 3]}')
    replace("sweeps.run", run_sweep=swept, Runner=runner, check_list=lambda *_: None)
    replace("sweeps.tables", write_up=written)

    def compared(methods, directory, command, say, reach=0.0):
        keep(out=str(directory), reach=reach)
        return ""

    replace("comparisons.results", gather=lambda _, failed: keep(failed=failed))
    replace("comparisons.tables", write_up=compared)

    def read(path):
        keep(directories=(*given.called.get("directories", ()), str(path)))
        return Run(FedEM(), [], {})

    replace("runs.reading", read_run=read)
    replace("report.pictures", draw_run=lambda *_: None)
    replace("report.run_tables", closing=lambda _: "", comparison=lambda _: "")
    replace("report.curves", learning_curves=lambda runs, path, title: keep(picture=path))
    replace("pages.run_page", run_page=lambda runs, path: keep(html=str(path)))
    return given


def assert_arrives(values: dict[str, Any], found: dict[str, Any]) -> None:
    missed = {
        name: (value, found.get(name, "nothing"))
        for name, value in values.items()
        if found.get(name, "nothing") != value
    }
    assert not missed, f"given, and what arrived: {missed}"


# --- what arrives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("command", FULL)
def test_every_setting_of_a_method_reaches_the_work(work, command, method):
    values = values_of(command, method)
    names = {field.name for field in dataclasses.fields(METHODS[method].settings)}
    assert names - set(values) <= {
        "on_nonfinite", "client_fraction", "local_optimiser", "secure_sum",
        *METHODS[method].settings().refusals(),
        *(["start", "patience", "client_memory"] if command == "sweep" else []),
        *(["local_training"] if method in ("fedncf", "fedem") else []),
    }  # fmt: skip
    cli.main([command, *as_arguments(values)])
    assert work.configs
    if command == "train":
        assert (work.called["directory"].path, work.called["directory"].resume) == (
            Path("here"), False
        )  # fmt: skip
    if command == "sweep":
        values["space"] = "num_negative=2,3"  # what the file says
    for config in work.configs:
        assert type(config) is METHODS[method].settings
        assert_arrives(values, dataclasses.asdict(config) | work.called)


@pytest.mark.parametrize("command", ["audit", "bottleneck"])
def test_every_setting_of_the_other_commands_reaches_the_work(work, command):
    values = values_of(command)
    cli.main([command, *as_arguments(values)])
    assert len(work.configs) == 2
    for config in work.configs:
        assert_arrives(values, dataclasses.asdict(config) | work.called)


def test_every_flag_of_compare_reaches_the_runs(work):
    values = values_of("compare")
    cli.main(["compare", *as_arguments(values)])
    assert work.called["failed"] == {}
    assert [(config.method, config.seed) for config in work.runs] == [
        ("fedmf", 0), ("fedem", 0), ("fedmf", 1), ("fedem", 1)
    ]  # fmt: skip
    for config in work.configs:
        found = dataclasses.asdict(config) | {
            "methods": values["methods"] if config.dim == {"fedmf": 16, "fedem": 8}[config.method]
            else config.dim,
            "seeds": len({run.seed for run in work.runs}),
            "settings": (f"top_k={config.top_k}", f"header={config.header}"),
        }  # fmt: skip
        assert Path(config.out).parent == Path("here")
        assert_arrives(values, found | work.called)


def test_every_flag_of_report_reaches_what_it_draws(work):
    values = values_of("report")
    cli.main(["report", *as_arguments(values)])
    assert_arrives(values, work.called)


def test_no_command_is_left_out():
    others = {"audit", "bottleneck", "compare", "report", "data", "recommend", "export"}
    assert set(cli.COMMANDS) == {*FULL, *others}  # test_recommend_command.py has the last two
    own = {"dataset", "data_dir", "out", "protocol", "seed"}
    assert set(flags_of("data")) == own | set(FileFormat._fields)


@pytest.mark.parametrize(("command", "flag"), STARTS)
def test_what_all_settings_start_from_reaches_the_work(work, tmp_path, command, flag):
    if flag == "preset":  # by default the tuned one
        wanted = preset("released")
        assert wanted != preset()
        args = ["--preset", "released"]
    else:
        wanted = FedMF(dim=24, seed=7, out="x", header="yes")
        (tmp_path / "x").mkdir()
        wanted.save(tmp_path / "x" / "config.json")
        args = ["--resume", "x"] if flag == "resume" else ["--config", "x/config.json"]
    if command == "sweep":
        args += ["--vary", "init_scale=0.2,0.3"]
    if command == "compare":
        args += ["--methods", "fedem", "--seeds", "1"]
        wanted = dataclasses.replace(wanted, per_client=True)
    cli.main([command, *args])
    assert work.configs
    for config in work.configs:
        assert dataclasses.replace(config, out="") == dataclasses.replace(wanted, out="")
    if command == "train":
        assert work.called["directory"].resume == (flag == "resume")


def test_every_setting_of_the_data_reaches_their_reader(monkeypatch):
    """All that `federation_of` is to pass on: how the file is read, and how it is split."""
    found, (interactions, _) = {}, embedded()

    def read(path, *, seed, **form):
        found.update(dataset=str(path), **form)
        return interactions

    def split(_, rules, seed, name, held_out):
        assert held_out is None
        found.update(dataclasses.asdict(rules), protocol=rules.name.rstrip("*"), seed=seed)
        return federation()

    def locate(name, source, data_dir):
        found.update(data_dir=data_dir)
        return Path("file")

    monkeypatch.setattr(readers, "read", read)
    monkeypatch.setattr(sources, "split", split)
    monkeypatch.setattr(sources, "_locate", locate)
    switches = {
        "protocol": "paper", "negative_pool": "untrained", "candidates": "split",
        "selection": "last", "ties": "average", "scale": "logit", "repeats": "collapse",
        "num_candidates": 7, "min_interactions": 8, "seed": 9, "split": "ratio", "val_share": 0.2,
        "test_share": 0.3, "min_rating": 2.0, "min_item_interactions": 3, "k_core": 4,
    }  # fmt: skip
    file = {
        "dataset": "a.csv", "columns": ("who", "what"), "separator": ";", "header": "yes",
        "encoding": "latin-1", "decimal": ",", "order": "file", "ties_latest": "last",
        "cohort": "country",
    }  # fmt: skip
    sources.federation_of(FedEM(**switches, **file))
    assert_arrives(switches | file, found)
    rules = FedEM(protocol="paper").rules()
    for name in set(switches) - {"protocol", "seed"}:
        assert getattr(rules, name) != switches[name]

    known = next(iter(sources.SOURCES))
    monkeypatch.setitem(sources.SOURCES, known, SimpleNamespace(read=lambda _: interactions))
    sources.federation_of(FedEM(dataset=known, data_dir="there"))
    assert found["data_dir"] == "there"


def test_a_run_has_the_data_of_its_settings(monkeypatch):
    config = FedEM(header="yes", seed=9)

    def arrived(wanted):
        raise ArrivedError(wanted)

    monkeypatch.setattr("fedem_jax.runs.train.federation_of", arrived)
    with pytest.raises(ArrivedError) as error:
        run(config)
    assert error.value.args == (config,)
