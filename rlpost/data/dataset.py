"""The prompts of a run, encoded and checked before anything starts.

Owns the ``data.*`` settings and the handling of bad rows. Refuses to own order (cursor.py),
sources (sources/) and templates (encoder.py). Invariants: every prompt of a run has passed
every check; nothing is left out silently (``skipped``); the fingerprint changes if any token or
column changes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rlpost.bounds import check_config, number, option
from rlpost.data import template_variables
from rlpost.data.bad_rows import OnBadRow, OnLongPrompt
from rlpost.data.cursor import prompt_uid
from rlpost.data.encoder import ChatTokenizer, PromptEncoder, PromptTooLong
from rlpost.data.rows import RowStream, Split
from rlpost.data.sources.load import find_source, load_rows, same_file, short_name
from rlpost.errors import DataError, UserError
from rlpost.types import Prompt

DEFAULT_SIZE = 1000

# Returns why no verifier can judge a row with these columns, None if one can.
Refuse = Callable[[Mapping[str, Any]], str | None]


@dataclass(kw_only=True)
class DataConfig:
    """Where prompts come from.

    A row has a prompt, which is a string or a list of messages, the column ``tools`` where the
    model may call functions (data/tools.py), and any other columns, which verifiers see.
    A source is a ``.jsonl``, ``.json``, ``.parquet`` or ``.arrow`` file,
    ``reasoning_gym:TASK``, ``suite:NAME``, ``arithmetic`` or a hub id
    ``OWNER/NAME[:CONFIG][@SPLIT]``.
    """

    train: str = option(
        "arithmetic", help="prompts to train on: a file, a hub id, arithmetic or reasoning_gym:NAME"
    )
    heldout: str | None = option(
        None,
        help="prompts of the evaluation; null: rows that a generated source holds out, else none",
    )
    heldout_size: int = number(
        200, at_least=1, at_most=10**9, help="at most this many held-out rows, the first ones"
    )
    size: int | None = number(
        None, at_least=1, at_most=10**7, help="rows of a generated source; null: 1000"
    )
    prompt_column: str = option("prompt", help="column of the prompt")
    system_prompt: str | None = option(None, help="system message before each prompt; null: none")
    chat_template_kwargs: dict[str, Any] = option({}, help=template_variables.HELP)
    on_bad_row: OnBadRow = option(OnBadRow.error, help="what to do with a row that cannot be used")
    shuffle: bool = option(True, help="draw the prompts in random order")
    max_prompt_tokens: int | None = number(
        None,
        at_least=1,
        at_most=10**7,
        help="longest prompt; null: what the model's context leaves",
    )
    on_long_prompt: OnLongPrompt = option(
        OnLongPrompt.error, help="what to do with a longer prompt"
    )

    def check(self, path: str) -> None:
        """Refuse impossible settings; reads no data.

        Raises:
            UserError: names the field, its value and the way out.
        """
        if not self.prompt_column:
            raise UserError(f"{path}.prompt_column must not be empty; the usual name is prompt")
        if self.system_prompt is not None and not self.system_prompt.strip():
            raise UserError(f"{path}.system_prompt must not be blank; use null for none")
        source, _ = find_source(self.train, field=f"{path}.train")
        if self.size is not None and not source.generated:
            raise UserError(
                f"{path}.size={self.size} applies to generated sources (arithmetic, "
                f"reasoning_gym:TASK), but {path}.train is {self.train!r}; remove {path}.size"
            )
        if self.heldout is None:
            return
        find_source(self.heldout, field=f"{path}.heldout")
        if same_file(self.train, self.heldout, field=path):
            raise UserError(
                f"{path}.heldout and {path}.train are the same file {self.heldout!r}, so the score "
                f"would measure memory; split the file, or set {path}.heldout=null"
            )


def heldout_source(cfg: DataConfig) -> str | None:
    """Return the name of the source to evaluate on, None when there is none."""
    if cfg.heldout is not None:
        return cfg.heldout
    source, _ = find_source(cfg.train, field="data.train")
    return cfg.train if source.generated else None


class PromptDataset:
    """An ordered, checked list of prompts.

    Attributes:
        name: short name for metrics (``val-core/<name>/acc/mean@N``).
        fingerprint: hash of all tokens and columns; independent of where the files are.
        skipped: address and reason of every row that was left out.
    """

    def __init__(self, prompts: Sequence[Prompt], *, name: str, skipped: Sequence[str]) -> None:
        self._prompts = tuple(prompts)
        self.name = name
        self.skipped = list(skipped)
        self.fingerprint = _fingerprint(self._prompts)

    @classmethod
    def load(
        cls,
        cfg: DataConfig,
        *,
        tokenizer: ChatTokenizer,
        split: Split | str = Split.TRAIN,
        seed: int = 0,
        max_prompt_tokens: int | None = None,
        columns: Mapping[str, str] = MappingProxyType({}),
        refuse: Refuse = lambda columns: None,
    ) -> "PromptDataset":
        """Read, encode and check one split.

        Args:
            cfg: the settings.
            tokenizer: a transformers tokenizer.
            split: ``train`` or ``heldout``; ``heldout_source`` is None if there is no held-out one.
            seed: seed of generated training rows; held-out rows do not depend on it.
            max_prompt_tokens: the caller's bound, such as the model's context minus the
                response length; the smaller of it and ``cfg.max_prompt_tokens`` applies.
            columns: column that every row must have -> which verifier needs it.
            refuse: returns why a row that has these columns is bad all the same.

        Raises:
            UserError: a setting is wrong or the source does not exist.
            DataError: a row is bad (unless skipped) or no row is left.
        """
        check_config(cfg, "data")
        split = Split(split)
        source = cfg.train if split is Split.TRAIN else heldout_source(cfg)
        if source is None:
            raise UserError(
                f"data.heldout is not set and data.train={cfg.train!r} has no held-out rows of "
                "its own; set data.heldout to a file or source"
            )
        size = (cfg.size or DEFAULT_SIZE) if split is Split.TRAIN else cfg.heldout_size
        limits = [n for n in (cfg.max_prompt_tokens, max_prompt_tokens) if n is not None]
        encoder = PromptEncoder(
            tokenizer,
            prompt_column=cfg.prompt_column,
            system_prompt=cfg.system_prompt,
            max_prompt_tokens=min(limits, default=None),
        )
        rows = load_rows(source, split=split, size=size, seed=seed, field=f"data.{split.value}")
        skipped: list[str] = []
        prompts = []
        for prompt in _usable(rows, encoder, cfg, columns, refuse, skipped):
            prompts.append(prompt)
            if split is Split.HELDOUT and len(prompts) == size:
                break
        if not prompts:
            why = "it has no rows"
            if skipped:
                why = f"all {len(skipped)} rows were skipped, first: {skipped[0]}"
            raise DataError(f"{source}: no usable prompt for data.{split.value}: {why}")
        return cls(_completed(prompts), name=short_name(source), skipped=skipped)

    def without(self, reasons: Mapping[str, str]) -> "PromptDataset":
        """Return the dataset without some rows, which are listed as skipped.

        Args:
            reasons: address of a row -> why it is left out.

        Raises:
            DataError: no row is left.
        """
        kept = [prompt for prompt in self._prompts if prompt.address not in reasons]
        mine = [reasons[each.address] for each in self._prompts if each.address in reasons]
        skipped = [*self.skipped, *mine]
        if not kept:
            raise DataError(f"{self.name}: no usable prompt: all rows were skipped: {skipped[-1]}")
        return PromptDataset(kept, name=self.name, skipped=skipped)

    def __len__(self) -> int:
        return len(self._prompts)

    def num_asked_in(self, other: "PromptDataset") -> int:
        """Return how many prompts are also in the other one, token by token."""
        known = {prompt.token_ids for prompt in other._prompts}
        return sum(prompt.token_ids in known for prompt in self._prompts)

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.token_ids) for prompt in self._prompts)

    def prompt(self, epoch: int, row: int) -> Prompt:
        """Return the prompt of a row, with the uid that it has in ``epoch``."""
        return dataclasses.replace(self._prompts[row], uid=prompt_uid(epoch, row))


def _usable(
    rows: RowStream,
    encoder: PromptEncoder,
    cfg: DataConfig,
    columns: Mapping[str, str],
    refuse: Refuse,
    skipped: list[str],
) -> Iterator[Prompt]:
    kept = 0
    for row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            prompt = encoder.encode(row, uid=prompt_uid(0, kept))
            _require(columns, prompt)
            if (reason := refuse(prompt.columns)) is not None:
                raise DataError(
                    f"{prompt.address}: {reason}; fix the row, or leave such rows out with "
                    "data.on_bad_row=skip"
                )
        except PromptTooLong as error:
            if cfg.on_long_prompt is OnLongPrompt.error:
                raise
            skipped.append(str(error))
        except DataError as error:
            if cfg.on_bad_row is OnBadRow.error:
                raise
            skipped.append(str(error))
        else:
            kept += 1
            yield prompt


def _require(columns: Mapping[str, str], prompt: Prompt) -> None:
    for column, whose in columns.items():
        if prompt.columns.get(column) is None:
            lack = "nothing (null or NaN) in" if column in prompt.columns else "no"
            raise DataError(
                f"{prompt.address}: {lack} column {column!r}, which {whose} judges by (the row has "
                f"{sorted(prompt.columns)}); name the right one with verifier.answer_column, "
                "choose another verifier, or leave such rows out with data.on_bad_row=skip"
            )


def _completed(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Give every row the columns of all rows, with None where it has no value.

    A reward function that reads a column then finds it in every row, as in columnar files.
    """
    every = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    return [
        dataclasses.replace(prompt, columns={name: prompt.columns.get(name) for name in every})
        for prompt in prompts
    ]


def _fingerprint(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        record = [prompt.token_ids, sorted(prompt.columns.items(), key=lambda item: item[0])]
        digest.update(json.dumps(record, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]
