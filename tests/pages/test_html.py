"""Reports in HTML: they hold all they need, and say what runs, comparisons and sweeps found."""

import dataclasses
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up import made_up
from toy import small_federation

import fedem_jax as fj
from fedem_jax.cli import main as cli
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.settings import FedMF, FedRAP
from fedem_jax.errors import UserError
from fedem_jax.evaluation.metrics import metrics_at
from fedem_jax.pages.page import Section, cards, code, facts, sentence, sortable, write_page
from fedem_jax.pages.run_page import ShownRun, run_page, settings_table
from fedem_jax.report.tables import Cell, Row, Table

QUICK = {"dim": 4, "local_epochs": 1, "client_fraction": 0.2}
EVIL = "<script>alert('x')</script>"


class Reader(HTMLParser):
    """The tables, figures and outer resources of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded, self.cells, self.titles, self.scripts = [], [], [], []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._inside = tag if tag in ("script", "style") else self._inside
        values = dict(attrs)
        outer = tag in ("script", "link", "img", "iframe", "object", "source", "video", "audio")
        if outer and (where := values.get("src") or values.get("href")):
            self.loaded.append(where)
        if tag in ("td", "th", "dt", "dd"):
            self.cells.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = "" if tag in ("script", "style") else self._inside

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside and self.cells:
            self.cells[-1] += data

    @property
    def figures(self) -> list[list[dict]]:
        """Traces of each figure."""
        found = []
        for script in self.scripts:
            place = re.search(r"Plotly\.newPlot\(\s*\"figure-\w+\",\s*", script)
            if place:
                found.append(json.JSONDecoder().raw_decode(script[place.end() :])[0])
        return found


def numbers(figures: list[list[dict]], name: str) -> list[list[float]]:
    return [trace["y"] for figure in figures for trace in figure if trace["name"] == name]


@pytest.fixture(scope="module")
def made():
    return made_up(FedEM(rounds=4, dim=8, seed=3))


@pytest.fixture(scope="module")
def text(made, tmp_path_factory):
    run, clients = made
    path = tmp_path_factory.mktemp("page") / "new" / "report.html"
    run_page([ShownRun("mine", run, clients)], path)
    return path.read_text()


@pytest.fixture(scope="module")
def page(text):
    return Reader(text)


def test_nothing_is_loaded(text, page):
    assert page.loaded == []
    assert "Content-Security-Policy" in text
    assert "default-src 'none'" in text
    assert "@import" not in text[: text.index("<script>")]
    assert text.count("* plotly.js v") == 1


def test_the_run_is_there(made, text, page):
    run, _ = made
    summary = run.summary
    assert summary["fingerprint"] in page.cells
    for setting, value in (("dim", "8"), ("merging", run.config.merging), ("rounds", "4")):
        assert page.cells[page.cells.index(setting) + 1] == value
    for part, name in metrics_at(10):
        assert f"<strong>{summary['headline'][part][name]:.4f}</strong>" in text
    for name in ("num_candidates", "negative_pool"):
        place = page.cells.index(name.replace("_", " "))
        assert page.cells[place + 1] == str(summary["protocol_switches"][name])
    assert page.cells[page.cells.index("jax") + 1] == "1.2.3"


def test_the_curves_are_the_records(made, page):
    run, _ = made
    curves = numbers(page.figures, "test")
    metrics = (("test", "hr@10"), ("test", "ndcg@10"), ("test_full", "hr@10"))
    wanted = [[record[part][name] for record in run.records] for part, name in metrics]
    assert curves == wanted
    assert numbers(page.figures, "chance")[0] == [run.summary["chance"]["test"]["hr@10"]] * 2
    (best,) = {tuple(trace["x"]) for figure in page.figures for trace in figure
               if trace["name"] == "best validation round"}  # fmt: skip
    assert best == (run.summary["headline"]["round"],)


def test_the_clients_are_counted(made, page):
    run, clients = made
    (figure,) = [traces for traces in page.figures if traces[0]["x"][:4] == [1, 2, 3, 5]][:1]
    (line,) = figure
    shares = dict(zip(line["x"], line["y"], strict=True))
    assert shares[10] == (clients["test"] <= 10).mean() == run.summary["headline"]["test"]["hr@10"]
    assert line["y"][-1] == 1


def test_single_clients_are_not_named(made, text):
    assert not set(made[1]["user"]) & set(re.findall(r"\w+", text[text.index("<body>") :]))


def test_a_setting_is_held_against_the_default_of_its_method():
    table = settings_table({"a": FedMF(), "b": FedRAP(top_k=5)})
    rows = {row.cells[0]: row for row in table.rows}
    assert rows["top_k"].cells == ["top_k", "10", "5", "10"]
    assert rows["lr_embedding"].cells[-1] == "by method"
    assert {name for name, row in rows.items() if row.style} == {"top_k"}


def test_folders_of_the_machine_are_left_out(made, tmp_path):
    run, _ = made
    config = dataclasses.replace(run.config, out="/home/me/x", data_dir="/home/me/data")
    run_page([ShownRun("mine", run._replace(config=config))], tmp_path / "r.html")
    assert "/home/me" not in (tmp_path / "r.html").read_text()


def test_texts_of_files_and_users_are_escaped(made, tmp_path):
    run, clients = made
    summary = run.summary | {"dataset": EVIL, "device": EVIL, "columns_read": EVIL}
    shown = [ShownRun(f"{EVIL}{n}", run._replace(summary=summary), clients) for n in range(2)]
    run_page(shown, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "<script>alert" not in text
    assert EVIL in unescape(text)


def test_parts_are_escaped():
    table = Table(EVIL, ["a", EVIL], [Row([EVIL, Cell(EVIL, EVIL, best=True)])], [EVIL])
    for part in (sentence(EVIL), code(EVIL), cards([(EVIL,) * 3]), facts({EVIL: EVIL}),
                 sortable(table)):  # fmt: skip
        assert "<script" not in part
        assert "&lt;script&gt;" in part


def test_a_table_without_rows_is_its_notes():
    assert sortable(Table("", ["a"], [], ["none"])) == '<p class="note">none</p>'


def test_a_missing_library_is_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = r"needs plotly; install it with `pip install 'fedem_jax\[html\]'`\."
    with pytest.raises(UserError, match=words):
        write_page(tmp_path / "r.html", "", "", [Section("a", ["b"])])
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(tmp_path), "--html", str(tmp_path / "r.html")])
    assert ended.value.code == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "r.html").exists()


# --- the command, comparisons and sweeps ----------------------------------------------------------


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A comparison and a sweep of a few rounds, with their folders."""
    folder = tmp_path_factory.mktemp("studies")
    two, data = ["fedmf", "popularity"], small_federation(clients=20, num_candidates=11)
    compared = fj.compare(two, data, seeds=2, rounds=2, directory=folder / "c", **QUICK)
    config = fj.preset("released", method="fedmf", rounds=2, **QUICK)
    swept = fj.sweep(config, {"lr_embedding": [0.01, 0.1]}, data, out=folder / "s")
    return folder, compared, swept


def test_a_comparison_writes_it_and_it_is_made_again(studies, capsys):
    folder, compared, _ = studies
    first = Reader((folder / "c" / "report.html").read_text())
    cli.main(["report", str(folder / "c"), "--html", str(folder / "again.html")])
    again = Reader((folder / "again.html").read_text())
    assert "holds the report" in capsys.readouterr().out
    assert first.figures == again.figures
    assert first.loaded == again.loaded == []
    means = {trace["name"]: dict(zip(trace["y"], trace["x"], strict=True))
             for trace in first.figures[0] if trace["name"].startswith("mean")}  # fmt: skip
    (found,) = means.values()
    assert found == pytest.approx(compared.table["test hr@10 mean"].to_dict())


def test_a_sweep_is_read_back(studies):
    folder, _, swept = studies
    cli.main(["report", str(folder / "s"), "--html", str(folder / "swept.html")])
    page = Reader((folder / "swept.html").read_text())
    assert page.loaded == []
    assert swept.about["fingerprint"] in page.cells
    (points,) = page.figures[0]
    values = dict(zip(points["x"], points["y"], strict=True))
    wanted = swept.table.set_index("lr_embedding")["val hr@10"].to_dict()
    assert values == pytest.approx(wanted)


def test_runs_stand_beside_one_another(studies, capsys):
    folder, *_ = studies
    runs = [str(folder / "c" / f"fedmf-seed{seed}") for seed in range(2)]
    cli.main(["report", *runs, "--html", str(folder / "runs.html")])
    page = Reader((folder / "runs.html").read_text())
    assert {"fedmf-seed0", "fedmf-seed1"} <= set(page.cells)
    assert len(numbers(page.figures, "fedmf-seed0")) == 6


def test_a_page_shows_one_comparison(studies, capsys):
    folder, *_ = studies
    with pytest.raises(SystemExit):
        cli.main(["report", str(folder / "c"), str(folder / "s"), "--html", "x.html"])
    assert "give one folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["report", str(Path(folder)), "--html", "x.html"])
    assert "holds no finished run, comparison or sweep" in capsys.readouterr().err
