"""Several judges on the command line: what composes, and what is refused with its way out."""

import pytest

from rlpost.config.compose import compose_stage
from rlpost.errors import UserError
from rlpost.verifiers.combine import Rule

QUICK = ["verifier=math"]
STYLE = ["+verifier@verifiers.style=function", "verifiers.style.path=r.py:style"]
STRICT = ["+verifier@verifiers.strict=exact"]
MODEL = ["+reward_models.helpful.path=./somewhere"]
GATE = ["rewards.rule=gate", "rewards.gates=[math]"]


def composed(*overrides):
    cfg, _ = compose_stage(list(overrides), stage="rl")
    return cfg


def test_verifiers_are_added_beside_the_one_with_a_kind():
    cfg = composed(*QUICK, *STYLE, "verifiers.style.weight=0.2", *STRICT, *MODEL)
    assert list(cfg.all_verifiers) == ["math", "style", "strict"]
    assert cfg.combination.weights == {"math": 1.0, "style": 0.2, "strict": 1.0, "helpful": 1.0}
    assert cfg.combination.rewards.rule is Rule.sum


def test_the_one_with_a_kind_may_be_removed_where_others_are():
    cfg = composed("~verifier", *STYLE, *STRICT)
    assert cfg.verifier is None and list(cfg.all_verifiers) == ["style", "strict"]


def test_two_of_a_kind_have_settings_of_their_own():
    strict = [*STRICT, "verifiers.strict.take=LAST_LINE"]
    cfg = composed("verifier=exact", "verifier.weight=0", *strict)
    takes = [each.take.value for each in cfg.all_verifiers.values()]
    assert takes == ["whole", "last_line"]
    assert cfg.combination.deciding == {"strict"}


@pytest.mark.parametrize(
    ("overrides", "deciding"),
    [
        ([*STYLE, "rewards.rule=product"], {"math", "style"}),
        ([*STYLE, "verifiers.style.weight=0.2", *GATE], {"style"}),
        ([*MODEL, *GATE, "rewards.threshold=0.5", "rewards.floor=-1"], {"helpful"}),
        ([*MODEL, "rewards.rule=gate", "rewards.gates=[helpful]"], {"math"}),
        ([*MODEL, "rewards.rule=first", "verifier.abstains=true"], {"math", "helpful"}),
        ([*STYLE, "algorithm/advantage=gdpo"], {"math", "style"}),
    ],
)
def test_rules_compose(overrides, deciding):
    assert composed(*QUICK, *overrides).combination.deciding == deciding


REFUSED = [
    # spelling
    (["verifiers.style.path=r.py:f"], "verifiers.style.path belongs to no verifier that is chosen"),
    (["+verifiers.style.path=r.py:f"], "give +verifier@verifiers.style=NAME with one of exact"),
    (["verifiers=[math]"], "verifiers holds options of its own"),
    (["verifiers=null"], "verifiers cannot be null"),
    (["+verifiers.style=math"], "verifiers.style is chosen by name, got 'math'"),
    (["+verifiers.style=null"], "verifiers.style is chosen by name, got null"),
    (["+verifier@verifiers.style=maths"], "verifier must be one of exact, format, function, math"),
    (["verifier@verifiers.style=math"], "or +verifier@verifiers.NAME=KIND to add one"),
    ([*STRICT, "verifiers.strict.kind=math"], "does not change what was chosen, exact"),
    ([*STRICT, "verifiers.strict.path=r.py:f"], "verifiers.strict.path"),
    ([*STRICT, "verifiers.strict.weight=nan"], "verifiers.strict.weight must be in [-1e6, 1e6]"),
    ([*STRICT, "verifiers.strict.timeout_s=0"], "verifiers.strict.timeout_s must be in (0, 86400]"),
    (["+verifier@verifiers.math=exact"], "verifiers.math has the name of a verifier"),
    (["~verifier"], "verifier is chosen by name, got null"),
    ([*STYLE, "verifiers.style.path=[r.py:f,r.py:g]"], "verifiers.style.path must name one"),
    ([*STYLE, "verifiers.style.path=notes"], "verifiers.style.path must be FILE.py:function"),
    ([*STRICT, "+reward_models.strict.path=x"], "reward_models.strict has the name of the ver"),
    ([*STRICT, "verifier.weight=0", "verifiers.strict.weight=0"], "leaves nothing to learn from"),
    # rules
    (["rewards.rule=max"], "rewards.rule"),
    (["rewards.rule=null"], "rewards.rule"),
    (["rewards.rules=sum"], "did you mean rewards.rule?"),
    (["rewards.gates=[math]"], "have no effect with rewards.rule=sum; set rewards.rule=gate"),
    (["rewards.threshold=0.5"], "have no effect with rewards.rule=sum"),
    ([*STYLE, "rewards.rule=product", "rewards.floor=-1"], "no effect with rewards.rule=product"),
    ([*GATE, *STYLE, "rewards.threshold=nan"], "rewards.threshold must be in [-1e6, 1e6], got nan"),
    ([*GATE, *STYLE, "rewards.floor=-inf"], "rewards.floor must be in [-1e6, 1e6], got -inf"),
    ([*STYLE, "rewards.rule=gate"], "rewards.gates must name the judges that must pass"),
    ([*STYLE, "rewards.rule=gate", "rewards.gates=[math,math]"], "each once, got ['math', 'math']"),
    ([*STYLE, "rewards.rule=gate", "rewards.gates=[maths]"], "the judges math, style, got 'maths'"),
    ([*STYLE, "rewards.rule=gate", "rewards.gates=math"], "rewards.gates"),
    ([*STYLE, *GATE, "verifier.weight=0.5"], "the weight of math must be 1, got 0.5"),
    ([*STYLE, *GATE, "verifiers.style.weight=0"], "leaves no judge with a weight to learn from"),
    (GATE, "rewards.gates=['math'] leaves no judge with a weight"),
    ([*MODEL, "+reward_models.helpful.normalize=true", "rewards.rule=gate",
      "rewards.gates=[helpful]"], "it cannot be one of rewards.gates"),
    (["rewards.rule=product"], "combines several judges with a weight, and there is one, math"),
    ([*MODEL, "rewards.rule=product"], "the score of reward_models.helpful can be negative"),
    ([*STYLE, "rewards.rule=product", "verifiers.style.weight=0.5"], "weight of style must be 1"),
    (["rewards.rule=first"], "combines several judges with a weight, and there is one, math"),
    ([*STYLE, "rewards.rule=first"], "set verifier.abstains=true to have it abstain on rows"),
    ([*MODEL, "+reward_models.other.path=x", "verifier.abstains=true", "rewards.rule=first"],
     "reward_models.helpful never abstains"),
    # what learns from them
    ([*STYLE, "rewards.rule=product", "algorithm/advantage=gdpo"], "rule=product cannot be used"),
    ([*STYLE, *GATE, "algorithm/advantage=gdpo"], "normalises several rewards one by one"),
    ([*STRICT, "verifiers.strict.weight=0", "algorithm/advantage=gdpo"], "and there is one"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), REFUSED)
def test_what_cannot_work_is_refused_with_its_way_out(overrides, message):
    from rlpost.config.explain import explain

    with pytest.raises(Exception) as caught:
        composed(*QUICK, *overrides)
    text = (
        str(caught.value)
        if isinstance(caught.value, UserError)
        else explain(caught.value, stage="rl")
    )
    assert message in text
