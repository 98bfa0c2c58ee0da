import pytest

from rlpost.errors import UserError
from rlpost.models.tiny import build_tiny_llama
from rlpost.models.vocabulary import require_same_vocabulary, same_vocabulary


def test_ids_must_mean_the_same(tiny_model, tmp_path):
    other = build_tiny_llama(tmp_path / "other", seed=1)
    assert same_vocabulary(str(tiny_model), str(other))
    require_same_vocabulary(str(other), str(tiny_model), field="reward.path")
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"!"', '"@@"'))
    assert not same_vocabulary(str(tiny_model), str(other))
    with pytest.raises(UserError, match=r"reward\.path: .* must have the tokenizer of the policy"):
        require_same_vocabulary(str(other), str(tiny_model), field="reward.path")
