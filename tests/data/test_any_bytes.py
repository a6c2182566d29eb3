"""Any bytes give sound interactions or one sentence (`ratings_files.judge`).

Texts of likely pieces, sound files that were damaged, and raw bytes, for every kind of file. What a
coverage-guided fuzzer found, or would have, is listed at the end; see `tests/data/fuzz_readers.py`.
"""

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from ratings_files import COLUMNS, HOW, LASTFM, PACKED, SOUND, judge, judge_lastfm

stable = settings(
    max_examples=30,
    # a failure is not explained line by line, which takes minutes
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TEXTS = [kind for kind in HOW if kind not in (*PACKED, "json")]

CELLS = st.one_of(
    st.integers(-3, 30).map(str),
    st.sampled_from([
        "", " ", "5.0", "007", "-0", "+3", "1e3", "1e999", "nan", "NaN", "inf", "-inf", "null",
        "True",
        "0x10", "1_0", "1,5", "٣", "½", "9007199254740993", "9223372036854775807",
        "9223372036854775808", "18446744073709551616", "9" * 400, "2015-01-02", "12:30", "x" * 1001,
        "a b", " a ", "é", "😀", "\u2028", "\x85", "\x1f", "\x07", "#", "'", '"', '""', '"a"', '"a',
        'a"b', '"a\nb"', '"a,b::c\t|d"', "user", "item", "rating", "timestamp",
    ]),
    st.text(max_size=4),
)  # fmt: skip
ENDS = st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n", "\n  \n", " \n", "\n#\n", ""])


@st.composite
def texts(draw, kind: str) -> bytes:
    """Lines of cells, mostly of one width, in the encoding of most files."""
    separator = HOW[kind][1] or {"csv": ",", "tsv": "\t"}.get(kind, draw(st.sampled_from(",;| ")))
    width = draw(st.integers(1, 5))
    lines = st.lists(
        st.tuples(
            st.one_of(
                st.lists(st.integers(0, 9).map(str), min_size=width, max_size=width),
                st.lists(CELLS, max_size=6),
            ).map(separator.join),
            ENDS,
        ).map("".join),
        max_size=8,
    )
    return (draw(st.sampled_from(["", "", "\ufeff"])) + "".join(draw(lines))).encode()


@st.composite
def damaged(draw, kind: str) -> bytes:
    """A sound file with a few bytes changed, lost, doubled or put in."""
    content = bytearray(SOUND[kind])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(0, 8))
        new = draw(st.one_of(
            st.binary(max_size=4),
            st.just(bytes(content[at : at + 40])),
            st.sampled_from([b"\0", b"\xff\xff\xff\xff", b"\x80", b'"', b"\n", b"\r", b"::"]),
        ))  # fmt: skip
        content[at : at + length] = new
    return bytes(content)


@pytest.mark.parametrize("kind", HOW)
def test_sound_files_are_read_and_split(kind):
    """Each has one user with the three interactions that a split needs."""
    read = judge(kind, SOUND[kind])
    assert read is not None
    assert read.clients == 1


@pytest.mark.parametrize("kind", TEXTS)
@stable
@given(data=st.data(), columns=st.sampled_from(COLUMNS))
def test_lines_of_odd_cells(kind, data, columns):
    judge(kind, data.draw(texts(kind)), columns)


@pytest.mark.parametrize("kind", HOW)
def test_damaged_files(kind):
    found = []

    @stable
    @given(data=st.data(), columns=st.sampled_from(COLUMNS))
    def holds(data, columns):
        found.append(judge(kind, data.draw(damaged(kind)), columns))

    holds()
    read = [each for each in found if each is not None]
    assert len(read) < len(found)
    assert kind in PACKED or any(each.clients for each in read)


@stable
@given(content=st.binary(max_size=80), kind=st.sampled_from(list(HOW)))
@example(content=b"PAR1" + b"\xff" * 40 + b"PAR1", kind="parquet")
@example(content=b'"' * 79, kind="csv")
def test_raw_bytes(content, kind):
    judge(kind, content)


@stable
@given(data=st.data())
def test_dates_of_lastfm(data, tmp_path):
    cells = st.lists(st.one_of(st.integers(-1, 13).map(str), CELLS), min_size=5, max_size=7)
    lines = data.draw(st.lists(cells.map("\t".join), max_size=3))
    path = tmp_path / "user_taggedartists.dat"
    path.write_bytes(LASTFM + "\n".join(lines).encode())
    judge_lastfm(path)


NUMBERS = st.integers(-9, 99)


@pytest.mark.parametrize("kind", TEXTS)
def test_plain_numbers_come_back_as_they_were(kind):
    """Not all is refused: whatever is plain is read, by every separator."""
    separator = HOW[kind][1] or {"csv": ",", "tsv": "\t"}.get(kind, ";")
    header = [separator.join(("user", "item", "rating", "timestamp"))]
    clients = []

    @stable
    @given(
        rows=st.lists(
            st.tuples(st.integers(-1, 1), NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=20
        )
    )
    def holds(rows):
        lines = [separator.join(map(str, row)) for row in rows]
        named = HOW[kind][2] != "no"
        read = judge(kind, "\n".join(header * named + lines).encode())
        assert read is not None
        assert list(read.interactions.frame.itertuples(index=False, name=None)) == rows
        clients.append(read.clients)

    holds()
    assert max(clients) > 1
