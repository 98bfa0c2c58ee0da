"""Rows a second of encoding a data set, beside the bare tokenizer.

    .venv/bin/python benchmarks/data.py --rows 20000

Conversations of two rounds are written to a file and encoded for supervised fine-tuning with the
tokenizer of the embedded model: by the tokenizer and its chat template alone in a plain loop, by
these as the encoder of a corpus, and by the encoder of masks; each corpus in this process
and in two workers. Processor time counts all processes, and the start of workers too; the last line
reads the corpus back in random order.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.corpus.corpus import Corpus, CorpusRules, load_corpus
from rlpost.data.example import Example
from rlpost.data.formats.reader import RecordReader
from rlpost.data.records import Conversation
from rlpost.data.sources.load import find_rows

WORDS = [*"abcdefghijklmnopqrstuvwxyz", "the", "model", "learns", "from", "each", "answer", "given"]


def conversations(rows: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    for _ in range(rows):
        messages = []
        for _ in range(2):
            messages.append({"role": "user", "content": text(10, 60)})
            messages.append({"role": "assistant", "content": text(20, 200)})
        yield {"messages": messages}


def processor_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def measured(name: str, rows: int) -> Iterator[None]:
    wall, processor = time.perf_counter(), processor_s()
    yield
    wall, processor = time.perf_counter() - wall, processor_s() - processor
    print(
        f"{name:<30} {rows / wall:8.0f} rows/s {rows / processor:8.0f} rows/s of processor time",
        flush=True,
    )


def bare(tokenizer: Any, path: Path) -> None:
    with path.open() as lines:
        for line in lines:
            tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=True)


class BareEncoder:
    """The tokenizer and its template, without a mask that means anything."""

    fingerprint = "bare"
    accepts = (Conversation,)

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, record: Any) -> list[Example]:
        ids = self._tokenizer.apply_chat_template(list(record.messages), return_dict=False)
        trained = np.arange(len(ids)) > 0
        return [Example(ids=np.array(ids, np.int32), trained=trained, address=record.address)]


def corpus(path: Path, encoder: Any, cache: Path, workers: int) -> Corpus:
    os.environ["RLPOST_CACHE"] = str(cache / str(workers))
    return load_corpus(
        find_rows(str(path)),
        name="benchmark",
        reader=RecordReader(accepts=encoder.accepts),
        encoder=encoder,
        rules=CorpusRules(),
        workers=workers,
    )


def read_back(found: Corpus) -> None:
    order = list(range(len(found)))
    random.Random(0).shuffle(order)
    for row in order:
        found.examples(row)


def main(rows: int) -> None:
    from transformers import AutoTokenizer  # here, because workers import this file

    from rlpost.models.embedded import materialize

    tokenizer = AutoTokenizer.from_pretrained(materialize())
    encoders = {
        "corpus of the same": BareEncoder(tokenizer),
        "corpus with masks": ConversationEncoder(tokenizer),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "conversations.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in conversations(rows)))
        print(f"{rows} conversations, {path.stat().st_size / 2**20:.0f} MiB")
        runs: dict[str, Callable[[], Any]] = {
            "tokenizer and template": lambda: bare(tokenizer, path),
            **{
                f"{name}, {workers} workers": lambda encoder=encoder, workers=workers: corpus(
                    path, encoder, Path(folder), workers
                )
                for name, encoder in encoders.items()
                for workers in (0, 2)
            },
        }
        for name, run in runs.items():
            with measured(name, rows):
                found = run()
        with measured("read back", rows):
            read_back(found)
        print(f"{found.lengths_N.mean():.0f} tokens a row")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20000)
    main(parser.parse_args().rows)
