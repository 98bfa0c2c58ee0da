"""A single wrong bit is seen, and it is told whose it is."""

from rlpost.weights.kernel_digest import KernelDigest, agreed, differing


def digest(*contents: str, layout: str = "qwen on cpu") -> KernelDigest:
    return KernelDigest(layouts=(layout,) * len(contents), contents=contents)


def test_the_majority_is_right():
    digests = {"a": digest("x", "y"), "b": digest("x", "z"), "c": digest("x", "y")}
    assert differing(digests, right={}) == {"b": "differ from those of the others in worker [1]"}
    assert differing({"a": digest("x"), "c": digest("x")}, right={}) == {}


def test_without_a_majority_everybody_is_in_doubt_until_one_was_agreed_on():
    digests = {"a": digest("x"), "b": digest("y")}
    assert list(differing(digests, right={})) == ["a", "b"]
    assert "no majority" in differing(digests, right={})["a"]
    assert list(differing(digests, right=agreed({"c": digest("x")}))) == ["b"]


def test_engines_of_another_layout_are_not_compared():
    digests = {"a": digest("x"), "b": digest("y", layout="qwen on another device")}
    assert differing(digests, right={}) == {}
