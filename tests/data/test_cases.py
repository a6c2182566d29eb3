"""Files as people have them: read right by `load`, by the commands that train, and by `fedem data`,
or refused with one sentence."""

import numpy as np
import pytest
from cases import ASKED, READ, Cases, written
from ratings_files import assert_sentence

from fedem_jax.cli import main as cli
from fedem_jax.config.presets import preset
from fedem_jax.data.readers import read
from fedem_jax.data.sources import federation_of, load
from fedem_jax.errors import UserError

LOADERS = {
    "load": load,
    "train": lambda path, **how: federation_of(preset(dataset=path, **how)),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    return written(tmp_path_factory.mktemp("cases"))


def held_out(federation) -> dict[str, tuple[str, str]]:
    items = federation.item_ids
    return {
        str(user): (str(items[val]), str(items[test]))
        for user, val, test in zip(
            federation.user_ids, federation.val_item, federation.test_item, strict=True
        )
    }


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", READ)
def test_what_is_clear_is_read_right(cases, loader, name):
    found = LOADERS[loader](str(cases.folder / name))
    assert len(cases.held_out()) == 100
    assert held_out(found) == cases.held_out()
    assert found.name == name


@pytest.mark.parametrize("loader", LOADERS)
def test_booleans_say_what_is_an_interaction(cases, loader):
    found = LOADERS[loader](str(cases.folder / "booleans.parquet"))
    assert held_out(found) == cases.held_out(liked=2)


@pytest.mark.parametrize("loader", LOADERS)
def test_dates_tie_and_are_right_where_they_do_not(cases, loader):
    found, truth = LOADERS[loader](str(cases.folder / "dates.parquet")), cases.held_out()
    days = cases.rows.assign(day=cases.rows["time"] // 86_400).sort_values("time")
    latest = days.groupby("user")["day"].agg(lambda day: len(set(day.tail(3))) == 3)
    untied = {str(user) for user in latest.index[latest]}
    assert {user: held_out(found)[user] for user in untied} == {u: truth[u] for u in untied}
    assert found.cleaning["tied_users"] == 100 - len(untied) > 0


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("name", "words"), ASKED.items())
def test_what_is_unclear_is_asked(cases, loader, name, words):
    with pytest.raises(UserError) as caught:
        LOADERS[loader](str(cases.folder / name))
    sentence = str(caught.value).replace(str(cases.folder), "")
    assert_sentence(sentence)
    assert words in sentence
    user, item = cases.rows.iloc[0][["user", "item"]].astype(int)
    assert f"'{user},{item}" in sentence


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("title.csv", {"header": "yes", "columns": ("0", "1", "2", "3")}),
        ("three-unknown.csv", {"columns": ("user_id", "item_id", "weight_kg", "shoe_size")}),
        ("semicolon-latin1.csv", {"encoding": "latin-1", "decimal": ","}),
    ],
)
def test_the_settings_that_a_sentence_names_settle_it(cases, loader, name, how):
    assert held_out(LOADERS[loader](str(cases.folder / name), **how)) == cases.held_out()


def test_rows_in_order_of_time(cases, tmp_path):
    path = tmp_path / "sorted.csv"
    cases.rows.sort_values("time")[["user", "item"]].to_csv(path, index=False)
    assert held_out(load(str(path), order="file")) == cases.held_out()
    assert held_out(load(str(path), order="random")) != cases.held_out()


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("reviews.csv", "user = reviewerID, item = asin, rating = overall, time = unixReviewTime"),
        ("log.csv", "user = user_id, item = video_id, rating = is_click, time = time_ms (by name)"),
        ("konect.txt", "item = column 1, rating = column 2, time = column 3 (by position)"),
        ("semicolon-latin1.csv", "encoding cp1252 (a guess); decimal comma"),
        ("dates.parquet", "users have equal times among their three latest rows; the first row"),
        ("iso.csv", "2011-03-13 to 2011-07-16"),
        *((name, "rows 1,739") for name in READ),
    ],
)
def test_fedem_data_shows_what_became_what(cases, capsys, monkeypatch, name, columns):
    monkeypatch.setenv("COLUMNS", "200")
    cli.main(["data", str(cases.folder / name)])
    shown = " ".join(capsys.readouterr().out.split())
    assert columns in shown
    assert "users 100 items 286" in shown
    for user, item in cases.rows.head(3)[["user", "item"]].itertuples(index=False):
        assert f" {user} {item} " in shown


@pytest.mark.parametrize(("name", "words"), ASKED.items())
def test_fedem_data_asks_as_well(cases, capsys, name, words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", str(cases.folder / name)])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_every_flag_of_fedem_data_reaches_the_reader(tmp_path, capsys):
    path = tmp_path / "f.txt"
    path.write_bytes("ł;x;1,5\nł;y;2,5\n".encode("cp1250"))
    args = ["data", str(path), "--columns", "1", "0", "2", "--separator", ";", "--header", "no"]
    args += ["--encoding", "cp1250", "--decimal", ",", "--order", "file", "--ties-latest", "last"]
    cli.main(args)
    shown = " ".join(capsys.readouterr().out.split())
    assert "user = column 1, item = column 0, rating = column 2, time = order file" in shown
    assert "x ł 1.5 0" in shown


def test_a_time_that_is_an_hour_is_asked(cases, tmp_path):
    path = tmp_path / "f.csv"
    hours = cases.rows.assign(time=cases.rows["time"] // 3600 % 24)
    hours.to_csv(path, index=False, header=False)
    with pytest.raises(UserError, match="fourth column is taken for the time, but holds only"):
        load(str(path))
    hours.to_csv(path, index=False)
    with pytest.raises(UserError, match="column 'time' is taken for the time"):
        load(str(path))
    settled = load(str(path), columns=("user", "item", "rating", "time"))
    assert np.unique(settled.user_ids).size == 100


def test_a_rating_that_is_a_time_is_asked(cases, tmp_path):
    path = tmp_path / "f.csv"
    cases.rows[["user", "item", "time"]].to_csv(path, index=False, header=False)
    with pytest.raises(UserError, match=r"third column is taken for the rating, but holds 13\d+ "):
        load(str(path))
    assert held_out(load(str(path), columns=("0", "1", "", "2"))) == cases.held_out()


def test_a_file_that_swallows_rows_is_refused_with_the_line(tmp_path):
    """Stray quotes beside cells that rightly hold separators."""
    rows = [f'{row // 9},{row},"Good, Bad",{row % 5},100' for row in range(27)]
    head, path = "user,item,title,rating,timestamp", tmp_path / "f.csv"

    def read_with(title: str):
        marked = [row.replace('"Good, Bad"', title) if n in (4, 20) else row for n, row in rows]
        path.write_text("\n".join([head, *marked]))
        return read(path)

    rows = list(enumerate(rows))
    assert len(read_with('"The Inch')) == 27
    assert len(read_with('The 3" Inch')) == 27
    assert len(read_with('"The, Inch"')) == 27
    assert len(read_with('"The, ""Inch"""')) == 27
    assert len(read_with('"A long\nreview, with, four,commas, in it"')) == 27
    with pytest.raises(UserError, match=r"line 6: opens a quote that takes in the rows"):
        read_with('"The, Inch')


def test_several_kinds_of_items_are_asked(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("user_id,artist_id,track_id,timestamp\n1,2,3,4\n")
    with pytest.raises(UserError, match="could be the item: 'artist_id', 'track_id'; set columns"):
        load(str(path))
