"""What a version must set; what a reload does to kernels is in tests/system/."""

from rlpost.weights.vllm_reload import sent_names


def test_a_payload_sets_what_is_the_models_and_no_scale_of_the_engine():
    names = ["layers.0.mlp.up_proj.base_layer.weight", "layers.0.attn.k_scale", "norm.weight_scale"]
    assert sent_names(names) == {"layers.0.mlp.up_proj.weight", "norm.weight_scale"}
