"""Which part of a response is the answer.

Owns the order in which marks of an answer are looked for. Refuses to read what it finds.
Invariants: what stands inside the thinking never counts; an earlier mark never counts when a
later one of its kind is there; a part that was marked and holds no answer is wrong, and
nothing before it is judged instead.
"""

import re
from dataclasses import dataclass
from enum import Enum

from rlpost.verifiers.answers.notation import closes, without_emphasis


class Origin(Enum):
    """How a part was marked, strongest mark first."""

    BOX = "box"  # the last \\boxed{...} or \\fbox{...}
    TAG = "tag"  # the last <answer>...</answer>
    HASHES = "hashes"  # the last line "#### ..."
    PHRASE = "phrase"  # what follows the last "answer is" or "answer:"
    TEXT = "text"  # nothing is marked: all of it


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a response, in plain characters, in which the answer stands.

    Example: ``Part(text="41", origin=Origin.TAG)``
    """

    text: str
    origin: Origin


_NAMES = "(?:seed:)?(?:think|thinking|thoughts?|reasoning|scratchpad)"
_THINKING = re.compile(
    rf"[<◁]\|?(?P<end>/?){_NAMES}\|?[>▷]|\[(?P<end2>/?)THINK\]"
    r"|<\|(?:(?P<end3>end)|begin)_of_thought\|>",
    re.I,
)
_BOX = re.compile(r"\\+(?:boxed|fbox)(?![A-Za-z])")
_MARK = re.compile(rf"\\+(?:boxed|fbox)|</?answer>|{_THINKING.pattern}", re.I)
_TAG = re.compile(r"<answer>(.*?)(?:</answer>|(?=<answer>)|\Z)", re.I | re.S)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(.*?)[ \t]*$", re.M)
_LAST_LINE_HASHES = re.compile(r"^[ \t]*####[ \t]*([^\n]*?)\s*\Z", re.M)
_BARE_VALUE = re.compile(r"[-+]?\s?[$€£¥]?\s?\.?\d[\d,. ]*(?:/\d+)?\s?(?:%|\\%)?\.?")
_CALCULATOR = re.compile(r"<<[^<>\n]*=[^<>\n]*>>")  # notes inside GSM8K's solutions
_PHRASE = re.compile(
    r"\banswers?\b(?:[ \t]*\([^()\n]{0,40}\))?[*_\s\"'`)\]]*[:=]"
    r"|\banswers?\b(?:(?!\b(?:not|cannot|never)\b|n't)(?:[^\n.:=]|\.(?=\d))){0,80}?"
    r"(?:\b(?:is|are|was|equals|becomes|be)\b(?!\s+(?:not|helpful|clear|correct|"
    r"right|wrong|useful)\b)(?:[ \t]+(?:that|then|thus|therefore|"
    r"simply|just|exactly|equal to|given by|approximately|about)\b)*[*_ \t]*:?|:)"
    r"|(?:最终|最終)?(?:答案|答え|回答|解答|정답|답)\s*(?:应该|應該)?(?:是|为|為|等于|等於|は|은|는)?\s*[、,:]?"
    r"|\b(?:antwort|r[eé]ponse|respuesta|risposta|resposta|ответ)\b[^\n.:=]{0,40}?"
    r"(?:\b(?:ist|lautet|est|es|è|é)\b|[:=])",
    re.I,
)


def answer_part(response: str) -> Part | None:
    """Return the part of a response, in plain characters, that is its answer.

    The last box, else the last answer tag, else the last ``####`` line, else what follows
    the last "answer is" or "answer:", else all of the text. None when nothing is left
    outside the thinking, or when the last box is empty or was never closed.
    """
    text = without_emphasis(_CALCULATOR.sub("", without_thinking(response)))
    boxes = list(_BOX.finditer(text))
    if boxes:
        content = _box_content(text, boxes[-1].end())
        return Part(text=content, origin=Origin.BOX) if content and content.strip() else None
    tags = _TAG.findall(text)
    if tags:
        return Part(text=tags[-1], origin=Origin.TAG) if tags[-1].strip() else None
    line = _hashes(text)
    if line is not None:
        return Part(text=line, origin=Origin.HASHES)
    return prose_part(text)


def prose_part(text: str) -> Part | None:
    """Return what follows the last phrase that announces an answer, else all of the text."""
    if not text.strip():
        return None
    phrases = list(_PHRASE.finditer(text))
    if not phrases:
        return Part(text=text, origin=Origin.TEXT)
    rest = text[phrases[-1].end() :]
    return Part(text=rest, origin=Origin.PHRASE) if rest.strip(" \t\n*_:") else None


def is_boxable(answer: str) -> bool:
    """Whether an answer is found again when it is put into a box."""
    return _box_content(f"{{{answer}}}", 0) == answer and not _MARK.search(answer)


def without_thinking(text: str) -> str:
    """Return ``text`` without the model's thinking, closed or not.

    Everything before an end that nothing began is thinking too: a template may have begun it.
    """
    kept: list[str] = []
    place, is_thinking = 0, False
    for tag in _THINKING.finditer(text):
        if tag["end"] or tag["end2"] or tag["end3"]:
            if not is_thinking:
                kept.clear()
            is_thinking = False
        elif not is_thinking:
            kept.append(text[place : tag.start()])
            is_thinking = True
        place = tag.end()
    if not is_thinking:
        kept.append(text[place:])
    return " ".join(kept)


def _box_content(text: str, start: int) -> str | None:
    rest = text[start:]
    shift = len(rest) - len(rest.lstrip())
    if shift == len(rest):
        return None
    if rest[shift] != "{":
        word = re.match(r"\\?[A-Za-z]+|[-+]?[\d.,]*\d|\S", rest[shift:])
        return word[0] if word else None
    end = closes(rest, shift)
    return None if end < 0 else rest[shift + 1 : end]


def _hashes(text: str) -> str | None:
    if "####" not in text:
        return None
    last = _LAST_LINE_HASHES.search(text)
    if last and last[1].strip():
        return last[1]
    # "####" may also be a heading: only a bare value on its line is an answer there.
    values = [line for line in _HASHES.findall(text) if _BARE_VALUE.fullmatch(line)]
    return values[-1] if values else None
