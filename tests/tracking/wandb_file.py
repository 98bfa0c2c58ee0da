"""Reads a ``.wandb`` file: W&B's 7-byte header, then a LevelDB log of protobuf records.

The installed wandb has no reader in Python any more, but it has the record's schema.
"""

import json
import struct
import time
import zlib

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK = 32768
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def finished_records(path, *, timeout_s=120.0):
    """Return the records once the last one is there: W&B's own process writes them."""
    deadline = time.monotonic() + timeout_s
    while True:
        records = read_records(path)
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        assert time.monotonic() < deadline, f"no exit record in {path} after {timeout_s} s"
        time.sleep(0.1)


def read_records(path):
    data = path.read_bytes()
    assert data[:4] == b":W&B", data[:8]
    at, pieces, records = 7, b"", []
    while at + 7 <= len(data):
        if _BLOCK - at % _BLOCK < 7:  # a header never straddles blocks
            at += _BLOCK - at % _BLOCK
            continue
        checksum, length, kind = struct.unpack("<IHB", data[at : at + 7])
        body = data[at + 7 : at + 7 + length]
        if kind == 0 or len(body) < length:
            break
        # LevelDB has a masked CRC-32C here; W&B writes the plain CRC-32 of kind and body.
        assert checksum == zlib.crc32(bytes([kind]) + body), "damaged record"
        assert kind in (_FULL, _FIRST, _MIDDLE, _LAST)
        pieces = body if kind in (_FULL, _FIRST) else pieces + body
        if kind in (_FULL, _LAST):
            records.append(Record.FromString(pieces))
        at += 7 + length
    return records


def history(records):
    """Return one dict per logged row."""
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append(
                {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in items
                }
            )
    return rows


def by_step(records):
    """Return step -> all metrics sent for it; a later attempt wins."""
    found = {}
    for row in history(records):
        found.setdefault(row["training/global_step"], {}).update(row)
    return found


def missing(rows, sent):
    """Return the (step, name) of what metrics.jsonl has and W&B has not, or has otherwise."""
    lost = []
    for row in rows:
        for name, value in row.items():
            if name in ("step", "time_s"):
                continue
            theirs = sent.get(row["step"], {}).get(name, "nothing")
            # W&B keeps a NaN, metrics.jsonl a null.
            same = theirs != theirs if value is None else theirs == value
            if not same:
                lost.append((row["step"], name))
    return lost


def config(records):
    found = {}
    for record in records:
        if record.WhichOneof("record_type") == "run":
            for item in record.run.config.update:
                found[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found
