"""JSON text compressed with gzip: streamed, bounded, and refused where it is broken."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlpost.data.rows import Row
from rlpost.data.sources import json_files
from rlpost.data.sources.load import find_rows, load_rows
from rlpost.errors import DataError

ROWS = [{"prompt": "1 + 1", "answer": "2"}, {"prompt": "2 + 2", "answer": "4"}]


def packed(content: bytes) -> bytes:
    """Compress without a time, so that a test has the same name in every process."""
    return gzip.compress(content, mtime=0)


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("a.jsonl.gz", LINES, (":1", ":2")),
        ("a.json.gz", json.dumps(ROWS).encode(), ("[0]", "[1]")),
        ("a.json.gz", LINES, (":1", ":2")),
    ],
)
def test_compressed_files_are_read(
    tmp_path: Path, name: str, text: bytes, places: tuple[str, ...]
) -> None:
    file = write(tmp_path / name, gzip.compress(text))
    assert list(load_rows(file)) == [
        Row(columns=row, address=file + place) for row, place in zip(ROWS, places, strict=True)
    ]


def test_several_members_are_one_text(tmp_path: Path) -> None:
    parts = [gzip.compress(LINES[:30]), gzip.compress(LINES[30:])]
    assert len(list(load_rows(write(tmp_path / "a.jsonl.gz", b"".join(parts))))) == 2


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (packed(LINES)[:-12], "the compressed data is cut off or damaged"),
        (packed(LINES)[:20], "the compressed data is cut off or damaged"),
        (packed(LINES)[:-8] + bytes(8), "damaged .CRC check failed"),
        (packed(LINES)[:12] + b"\xff" * 40, "the compressed data is cut off or damaged"),
        (packed(LINES) + b"more", "the compressed data is cut off or damaged"),
        (packed(packed(LINES)), "the content is compressed with gzip"),
        (packed(b"PAR1" + bytes(9)), "the content is a Parquet file"),
        (LINES, "the file is not compressed with gzip; remove .gz"),
        (b"", "the file is not compressed with gzip; remove .gz"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, rule: str) -> None:
    file = write(tmp_path / "a.jsonl.gz", content)
    with pytest.raises(DataError, match=rule) as caught:
        list(load_rows(file))
    assert str(caught.value).startswith(f"{file}: ")


BOMB = """
import sys
from rlpost.data.sources.load import find_rows
from rlpost.errors import DataError
try:
    for block in find_rows(sys.argv[1]).blocks:
        pass
except DataError as error:
    print(error)
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("name", ["line.jsonl.gz", "array.json.gz", "blank.jsonl.gz"])
def test_a_bomb_needs_bounded_memory(tmp_path: Path, name: str) -> None:
    """1 GiB of text in 1 MB: a single line, an array, and lines without end."""
    path, part = tmp_path / name, (b"\n" if "blank" in name else b" ") * 2**20
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"[" if "array" in name else b"{")
        for _ in range(1024):
            file.write(part)
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, check=True
    )
    # Not ru_maxrss, which begins at the size of the process that started this one.
    *said, peak_kb = done.stdout.splitlines()
    wanted = {
        "line.jsonl.gz": ":1: the line has more than 64 MiB",
        "array.json.gz": ": the array has more than 256 MiB when unpacked",
        "blank.jsonl.gz": "",
    }[name]
    assert wanted in "".join(said) and bool(said) is bool(wanted)
    assert int(peak_kb) < 700 * 1024


def test_lines_are_handed_out_in_blocks_that_hold_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "_BLOCK_BYTES", 50)
    rows = [{"text": "x" * (i % 90)} for i in range(200)]
    text = "\r\n".join(json.dumps(row) for row in rows).encode()
    for name, content in (("a.jsonl", text), ("b.jsonl.gz", gzip.compress(text))):
        file = write(tmp_path / name, content)
        assert len(list(find_rows(file).blocks)) > 50
        found = list(load_rows(file))
        assert [row.columns for row in found if isinstance(row, Row)] == rows
        assert [row.address for row in found if isinstance(row, Row)] == [
            f"{file}:{i}" for i in range(1, 201)
        ]


def test_a_line_that_is_too_long_names_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(json_files, "MAX_LINE_BYTES", 2**20)
    long = json.dumps({"text": "x" * 2**20}).encode() + b"\n"
    file = write(tmp_path / "a.jsonl", LINES + long + LINES)
    with pytest.raises(DataError, match=rf"^{file}:3: the line has more than 1 MiB"):
        list(load_rows(file))
    just = json.dumps({"text": "x" * (2**20 - 20)}).encode() + b"\n"
    assert len(list(load_rows(write(tmp_path / "b.jsonl", LINES + just + LINES)))) == 5
