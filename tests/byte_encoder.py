"""An encoder of examples whose tokens are bytes, so that tests can read them."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlpost.data.example import Example
from rlpost.data.records import Completion, Content, Conversation, Document, Pair, Record
from rlpost.errors import DataError


def decoded(example: Example) -> str:
    return bytes(example.ids.astype(np.uint8)).decode()


@dataclass(frozen=True, kw_only=True)
class ByteEncoder:
    """Prompts are read, everything else is trained except for the first byte of all."""

    fingerprint: str = "bytes"
    accepts: tuple[type[Record], ...] = (Conversation, Completion, Document, Pair)

    def encode(self, record: Record) -> list[Example]:
        assert isinstance(record, self.accepts)
        if isinstance(record, Document):
            return [_example("", record.text, record.address)]
        if isinstance(record, Conversation):
            *before, last = (str(message.get("content")) for message in record.messages)
            return [_example("|".join(before), last, record.address)]
        assert isinstance(record, Completion | Pair)
        ends = [record.completion] if isinstance(record, Completion) else [
            record.chosen, record.rejected,
        ]  # fmt: skip
        return [_example(_text(record.prompt), _text(end), record.address) for end in ends]


def _text(content: Content) -> str:
    return content if isinstance(content, str) else "|".join(str(m["content"]) for m in content)


def _example(read: str, learned: str, address: str) -> Example:
    if "refuse me" in learned:
        raise DataError(f"{address}: refused as asked")
    ids = np.frombuffer((read + learned).encode(), np.uint8).astype(np.int32)
    trained = np.arange(len(ids)) >= max(1, len(read.encode()))
    return Example(ids=ids, trained=trained, address=address)


@dataclass(frozen=True, kw_only=True)
class StoppingEncoder(ByteEncoder):
    """Says that it encodes, by the number of its process in a file, and then stops for good."""

    marks: Path
    stop: str = "wait"

    def encode(self, record: Record) -> list[Example]:
        (self.marks / str(os.getpid())).touch()
        if self.stop == "die":
            os._exit(1)
        while True:
            time.sleep(0.05)
