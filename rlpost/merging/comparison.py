"""Whether models can be merged: one architecture, one set of tensors, one vocabulary.

Owns the comparison of two model directories. Refuses to own whether each is complete
(models/directory/). Invariant: models that pass compute with equal positions of the same meaning.
"""

from collections.abc import Mapping
from typing import Any

from rlpost.errors import UserError
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.shell import CONSTANTS
from rlpost.models.directory.weight_files import Shape

# Fields of config.json that change nothing of what the weights mean.
_HARMLESS = {
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "id2label",
    "initializer_range", "label2id", "max_position_embeddings", "pad_token_id", "torch_dtype",
    "transformers_version", "use_cache",
}  # fmt: skip
_HARMLESS_ENDS = ("dropout", "_pdrop")
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def mergeable_names(model: ModelDirectory, shell: Any) -> list[str]:
    """Return the names of the tensors that a merge has to write.

    A head that is tied to the embedding is no tensor of its own, even where the files have it.
    """
    unique = {name for name, _ in shell.named_parameters()}
    every = {name for name, _ in shell.named_parameters(remove_duplicate=False)}
    prefix = f"{shell.base_model_prefix}."
    tied = {form for name in every - unique for form in (name, name.removeprefix(prefix))}
    return sorted(
        name for name in model.tensors if name not in tied and not name.endswith(CONSTANTS)
    )


def require_alike(
    first: ModelDirectory,
    other: ModelDirectory,
    *,
    names: tuple[list[str], list[str]],
    dtypes: bool,
) -> None:
    """Refuse two models whose weights do not belong together.

    Args:
        first: what the other is compared with.
        other: called by its ``field`` in messages.
        names: the tensors of each that are merged.
        dtypes: whether their types must be equal, because no option says what the result has.

    Raises:
        UserError: names the first difference and the way out.
    """
    _require_config(first, other)
    mine, theirs = names
    lone = sorted({*mine} ^ {*theirs})
    if lone:
        has, lacks = (first, other) if lone[0] in mine else (other, first)
        raise UserError(
            f"{other.field}: {lacks.path} lacks {lone[0]}, which {has.path} has"
            f"{f', and {len(lone) - 1} more tensors differ' if len(lone) > 1 else ''}; a tensor "
            "cannot be left out: merge models of one architecture, saved by the same program"
        )
    for name in mine:
        one, two = first.tensors[name], other.tensors[name]
        if one.shape != two.shape:
            raise UserError(
                f"{other.field}: {name} in {other.path} has the shape {_text(two.shape)}, and in "
                f"{first.path} {_text(one.shape)}; only models of equal shapes can be merged"
            )
        if dtypes and one.dtype != two.dtype:
            raise UserError(
                f"{other.field}: {name} in {other.path} is stored as {two.dtype}, and in "
                f"{first.path} as {one.dtype}; say which type the result has, for example "
                "merge.dtype=bfloat16, or dtype: bfloat16 in the file"
            )


def _require_config(first: ModelDirectory, other: ModelDirectory) -> None:
    mine, theirs = first.config, other.config
    if mine.architectures[0] != theirs.architectures[0]:
        raise UserError(
            f"{other.field}: {other.path} is a {theirs.architectures[0]}, and {first.path} a "
            f"{mine.architectures[0]}; only models of one architecture can be merged"
        )
    one, two = mine.to_dict(), theirs.to_dict()
    for name in sorted(one.keys() | two.keys()):
        harmless = name in _HARMLESS or name.endswith(_HARMLESS_ENDS)
        if harmless or one.get(name) == two.get(name):
            continue
        raise UserError(
            f"{other.field}: config.json of {other.path} has {name}={two.get(name)!r:.80}, and "
            f"that of {first.path} {name}={one.get(name)!r:.80}; weights of the one mean another "
            f"thing in the other: merge models that were made from one base{_hint(name)}"
        )


def _hint(name: str) -> str:
    if name == "vocab_size":
        return " without adding tokens"
    return " with the same head" if name == "tie_word_embeddings" else ""


def require_one_vocabulary(tokenizers: Mapping[str, Any], *, field: str, chosen: bool) -> list[str]:
    """Refuse tokenizers that give ids another meaning; return remarks on what else differs.

    Args:
        tokenizers: by the path of their model.
        field: of the models.
        chosen: whether the user said which tokenizer is kept.

    Raises:
        UserError: vocabularies differ, or special tokens do and ``chosen`` is False.
    """
    remarks = []
    (first, mine), *rest = tokenizers.items()
    for path, theirs in rest:
        one, two = mine.get_vocab(), theirs.get_vocab()
        if one != two:
            token = min(token for token, _ in one.items() ^ two.items())
            raise UserError(
                f"{field}: {path} gives the token {token!r:.60} the id {two.get(token)}, and "
                f"{first} {one.get(token)}; rows of their embeddings belong to different tokens: "
                "merge models of one vocabulary"
            )
        for name in _SPECIAL:
            if getattr(mine, name) != getattr(theirs, name) and not chosen:
                raise UserError(
                    f"{field}: {path} has {name}={getattr(theirs, name)!r}, and {first} "
                    f"{getattr(mine, name)!r}; say whose tokenizer is kept with "
                    "merge.tokenizer=MODEL, or tokenizer_source: MODEL in the file"
                )
        if mine.chat_template != theirs.chat_template:
            remarks.append(f"{path} has another chat template than {first}")
    return remarks


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "()"
