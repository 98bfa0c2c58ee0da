"""A text that cannot fit is refused before it is tokenized, and what would fit never is."""

import json
from pathlib import Path

import pytest
from chat_families import FAMILIES, tokenizer_of
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import NFC

from rlpost.data.bad_rows import OnBadRow, OnLong
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.conversation.preferences import JudgedEncoder, PairEncoder
from rlpost.data.conversation.steps import StepwiseEncoder
from rlpost.data.conversation.text import DocumentEncoder
from rlpost.data.conversation.text_bound import bytes_per_token
from rlpost.data.corpus.corpus import CorpusRules, load_corpus
from rlpost.data.example import RowTooLong
from rlpost.data.formats.reader import RecordReader
from rlpost.data.records import Completion, Conversation, Document, Judged, Pair, Stepwise
from rlpost.data.sources.load import find_rows
from rlpost.errors import DataError
from rlpost.models.tiny import byte_tokenizer

LIMIT = 100
HUGE = "word " * 10_000


class NeverCalled:
    """A tokenizer that must not be given a long text."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text, **options):
        assert len(text) < len(HUGE)
        return self._tokenizer(text, **options)


def rules_of(tokenizer):
    return json.loads(tokenizer.backend_tokenizer.to_str())


TOKENIZERS = {name: tokenizer_of(name) for name in FAMILIES} | {
    "bytes": byte_tokenizer(),
    "composing": byte_tokenizer(),
}
TOKENIZERS["composing"].backend_tokenizer.normalizer = NFC()
BOUNDS = {name: bytes_per_token(rules_of(each)) for name, each in TOKENIZERS.items()}


def test_the_usual_tokenizers_have_a_bound():
    bounds = [each for each in BOUNDS.values() if each is not None]
    assert len(bounds) > len(BOUNDS) / 2 and max(each.most for each in bounds) < 200
    longest = len("<|endoftext|>")
    assert (BOUNDS["bytes"].most, BOUNDS["composing"].most) == (longest, 4 * longest)
    assert BOUNDS["bytes"].dropped == b"" and b"\xf1" in BOUNDS["SmolLM2"].dropped


@given(
    text=st.text(
        st.sampled_from("ab \n\té\u0301\u1112\u1161\u11ab😀\U00040000\x04<|im_end>"), max_size=200
    )
)
def test_no_text_has_fewer_tokens_than_the_bound_says(text):
    for name, bound in BOUNDS.items():
        if bound is not None:
            ids = TOKENIZERS[name](text, add_special_tokens=False)["input_ids"]
            assert len(ids) >= bound.tokens_at_least(text), name


@pytest.mark.parametrize(
    "change",
    [
        lambda rules: rules["model"].update(type="WordPiece"),
        lambda rules: rules["added_tokens"][0].update(rstrip=True),
        lambda rules: rules.update(normalizer={"type": "Strip"}),
        lambda rules: rules.update(
            normalizer={"type": "Replace", "pattern": {"String": "  "}, "content": " "}
        ),
        lambda rules: rules.update(pre_tokenizer={"type": "WhitespaceSplit"}),
    ],
)
def test_rules_that_may_drop_characters_have_no_bound(change):
    rules = rules_of(byte_tokenizer())
    change(rules)
    assert bytes_per_token(rules) is None


def test_bytes_without_a_token_do_not_count():
    rules = rules_of(byte_tokenizer())
    del rules["model"]["vocab"]["a"]
    assert bytes_per_token(rules).tokens_at_least("a" * 10_000) == 0
    rules["normalizer"] = {"type": "NFC"}
    assert bytes_per_token(rules) is None  # what is composed could be lost


CHAT = ({"role": "user", "content": "2?"}, {"role": "assistant", "content": HUGE})
CASES = {
    ConversationEncoder: [
        Conversation(messages=CHAT, address="a:1"),
        Completion(prompt=HUGE, completion="2", address="a:1"),
    ],
    DocumentEncoder: [Document(text=HUGE, address="a:1")],
    PairEncoder: [Pair(prompt="2?", chosen="2", rejected=HUGE, address="a:1")],
    JudgedEncoder: [Judged(prompt="2?", completion=HUGE, label=True, address="a:1")],
    StepwiseEncoder: [
        Stepwise(prompt="2?", completions=("2", HUGE), labels=(True, False), address="a:1")
    ],
}


@pytest.mark.parametrize(
    ("encoder", "record"), [(each, record) for each, records in CASES.items() for record in records]
)
def test_every_encoder_refuses_it_untokenized(encoder, record):
    tokenizer = NeverCalled(byte_tokenizer())
    with pytest.raises(RowTooLong, match=r"a:1: .* characters, which are at least .* tokens"):
        encoder(tokenizer, refuse_above=LIMIT).encode(record)
    with pytest.raises(DataError, match="cannot be tokenized"):  # it was given to the tokenizer
        encoder(tokenizer).encode(record)


def test_a_base_model_refuses_it_too():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    record = Completion(prompt="2?", completion=HUGE, address="a:1")
    with pytest.raises(RowTooLong):
        ConversationEncoder(NeverCalled(tokenizer), refuse_above=LIMIT).encode(record)


def test_what_the_template_drops_does_not_count():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ message['content'] }}", "{{ message['content'] | trim }}"
    )
    spaced = ({"role": "user", "content": " " * 10_000 + "2?"}, {**CHAT[1], "content": "2"})
    record = Conversation(messages=spaced, address="a:1")
    (example,) = ConversationEncoder(tokenizer, refuse_above=LIMIT).encode(record)
    assert len(example) < LIMIT


@pytest.mark.parametrize("on_bad_row", OnBadRow)
def test_a_corpus_names_it_and_does_not_count_it_among_bad_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_bad_row: OnBadRow
):
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"text": "a"}) + "\n" + json.dumps({"text": HUGE}) + "\n")

    def load(refuse_above, on_long):
        encoder = DocumentEncoder(byte_tokenizer(), refuse_above=refuse_above)
        return load_corpus(
            find_rows(str(path)),
            name="train",
            reader=RecordReader(accepts=encoder.accepts),
            encoder=encoder,
            rules=CorpusRules(on_bad_row=on_bad_row, max_tokens=LIMIT, on_long=on_long),
            workers=0,
        )

    with pytest.raises(RowTooLong, match=r"train\.jsonl:2: "):
        load(LIMIT, OnLong.error)
    assert not list((tmp_path / "cache" / "corpora").iterdir())
    assert len(load(None, OnLong.skip)) == 1
    assert len(load(None, OnLong.truncate).examples(1)[0]) == LIMIT
