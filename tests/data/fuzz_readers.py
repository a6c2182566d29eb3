"""A coverage-guided fuzzer of the readers: `python tests/data/fuzz_readers.py -max_total_time=600`.

It needs the extra `fuzz` (atheris, for Linux). The arguments are those of libFuzzer: flags, and
folders of inputs to go on from. It stops at the first input that is neither read nor refused in one
sentence and writes it to a file crash-...; given that file, it runs this input alone.

An input: a byte for the kind of file, a byte for the columns, the file.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fedem_jax.data"]):
    from ratings_files import COLUMNS, HOW, LASTFM, SOUND, judge, judge_lastfm

KINDS = (*HOW, "lastfm")
WORDS = (
    ",", "::", "|", "→", " ", "\t", "\n", "\r\n", '"', '""', "\0", "\x1f", "\ufeff", "\u2028", "#",
    "user", "item", "rating", "timestamp", "nan", "inf", "1e999", "-1", "007", "0x10", "1_0", "5.0",
    "9007199254740993", "9223372036854775807", "18446744073709551616", "2015-01-02", "PAR1",
)  # fmt: skip
"""To put into inputs."""
LIMITS = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=4096", "-print_final_stats=1")
"""Seconds and memory that an input may take; later flags override them."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, seeds = Path(folder) / "f", Path(folder) / "seeds"
        seeds.mkdir()
        for number, kind in enumerate(KINDS):
            content = SOUND.get(kind, LASTFM)
            (seeds / kind).write_bytes(bytes([number, 0]) + content)

        words = Path(folder) / "words"
        escaped = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in WORDS)
        words.write_text("".join(f'"{word}"\n' for word in escaped))

        def one(data: bytes) -> None:
            kind, columns = (data + b"\0\0")[:2]
            kind, content = KINDS[kind % len(KINDS)], data[2:]
            if kind == "lastfm":
                file.write_bytes(content)
                judge_lastfm(file)
            else:
                judge(kind, content, COLUMNS[columns % len(COLUMNS)])

        atheris.Setup([sys.argv[0], *LIMITS, f"-dict={words}", *sys.argv[1:], str(seeds)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
