import pytest

from rlpost.errors import UserError
from rlpost.verifiers.configured import configured
from rlpost.verifiers.kinds.exact import ExactConfig
from rlpost.verifiers.kinds.function import FunctionConfig
from rlpost.verifiers.kinds.math import MathConfig


def test_one_verifier_has_the_name_of_its_kind():
    assert configured(ExactConfig(weight=2.0)) == {"exact": ExactConfig(weight=2.0)}


def test_functions_have_their_own_names():
    assert list(configured(FunctionConfig(path=["r.py:f", "r.py:g"]))) == ["f", "g"]


def test_more_verifiers_have_the_names_that_the_user_gave():
    more = {"strict": ExactConfig(), "style": FunctionConfig(path=["r.py:f"], weights=[0.5])}
    found = configured(MathConfig(), more)
    assert {name: str(cfg) for name, cfg in found.items()} == {
        "math": "verifier=math",
        "strict": "verifiers.strict=exact",
        "style": "verifiers.style=function",
    }
    assert (found["style"].path, found["style"].weight) == ("r.py:f", 0.5)
    assert list(configured(None, more)) == ["strict", "style"]


def test_messages_begin_with_the_field():
    with pytest.raises(UserError, match=r"^verifier\.path must be FILE\.py:function, got 'r\.py'"):
        configured(FunctionConfig(path=["r.py:f", "r.py"]))
    with pytest.raises(UserError, match=r"^verifiers\.g\.weights must.* of verifiers\.g\.path"):
        configured(None, {"g": FunctionConfig(path="r.py:f", weights=[1.0, 2.0])})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"math": ExactConfig()}, r"^verifiers\.math has the name of a verifier that verifier\.\*"),
        ({"a/b": ExactConfig()}, r"^verifiers\.a/b: a name must consist of letters"),
        ({"é": ExactConfig()}, r"a name must consist of letters"),
        ({"x" * 65: ExactConfig()}, r"at most 64 characters"),
        ({"s": FunctionConfig(path=["r.py:f", "r.py:g"])}, r"^verifiers\.s\.path must name one"),
    ],
)
def test_names_are_plain_and_belong_to_one_judge(more, message):
    with pytest.raises(UserError, match=message):
        configured(MathConfig(), more)
