"""What users of other libraries type has an answer, and the answers name options that exist."""

import re

import pytest
from hydra.errors import HydraException

from rlpost.config.command_line import check_override
from rlpost.config.compose import compose_stage
from rlpost.config.explain import explain, unknown_option
from rlpost.config.foreign_names import _by_name, foreign_answer, foreign_names, tables_of
from rlpost.config.options import known_keys
from rlpost.errors import UserError
from rlpost.stages.registry import STAGES

TABLES = foreign_names()
GROUPS = {"algorithm/advantage", "algorithm/corrections", "loss", "verifier"}
# Beginnings of options, as "trainer.*" in a sentence.
ROOMS = {key.split(".")[0] for key in known_keys("rl")}

# One line per library: what its own examples and documentation pass.
TYPED = {
    "TRL": """model_name_or_path dataset_name learning_rate num_generations max_completion_length
        max_prompt_length per_device_train_batch_size gradient_accumulation_steps num_train_epochs
        max_steps warmup_ratio warmup_steps lr_scheduler_type report_to save_total_limit save_steps
        eval_steps eval_strategy logging_steps bf16 beta epsilon epsilon_high delta use_vllm
        vllm_mode vllm_server_base_url vllm_gpu_memory_utilization vllm_tensor_parallel_size
        num_iterations loss_type scale_rewards reward_funcs reward_weights top_p top_k min_p
        repetition_penalty peft_config use_peft lora_r lora_alpha lora_target_modules output_dir
        run_name log_completions mask_truncated_completions importance_sampling_level sync_ref_model
        disable_dropout generation_kwargs chat_template_kwargs shuffle_dataset push_to_hub hub_token
        max_grad_norm weight_decay optim gradient_checkpointing deepspeed num_ppo_epochs
        num_mini_batches kl_coef cliprange cliprange_value lam gamma total_episodes response_length
        stop_token_id reward_model_path missing_eos_penalty resume_from_checkpoint
        dataloader_num_workers ddp_timeout torch_compile load_best_model_at_end""",
    "verl": """actor_rollout_ref.model.path actor_rollout_ref.model.enable_gradient_checkpointing
        actor_rollout_ref.model.use_remove_padding actor_rollout_ref.model.lora_rank
        actor_rollout_ref.model.trust_remote_code actor_rollout_ref.actor.optim.lr
        actor_rollout_ref.actor.optim.lr_warmup_steps_ratio actor_rollout_ref.actor.clip_ratio
        actor_rollout_ref.actor.clip_ratio_low actor_rollout_ref.actor.clip_ratio_high
        actor_rollout_ref.actor.clip_ratio_c actor_rollout_ref.actor.use_kl_loss
        actor_rollout_ref.actor.kl_loss_coef actor_rollout_ref.actor.kl_loss_type
        actor_rollout_ref.actor.entropy_coeff actor_rollout_ref.actor.ppo_mini_batch_size
        actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu actor_rollout_ref.actor.ppo_epochs
        actor_rollout_ref.actor.loss_agg_mode actor_rollout_ref.actor.policy_loss.loss_mode
        actor_rollout_ref.actor.fsdp_config.param_offload actor_rollout_ref.actor.grad_clip
        actor_rollout_ref.actor.ulysses_sequence_parallel_size actor_rollout_ref.actor.strategy
        actor_rollout_ref.actor.use_dynamic_bsz actor_rollout_ref.rollout.n
        actor_rollout_ref.rollout.name actor_rollout_ref.rollout.mode
        actor_rollout_ref.rollout.temperature actor_rollout_ref.rollout.top_p
        actor_rollout_ref.rollout.top_k actor_rollout_ref.rollout.gpu_memory_utilization
        actor_rollout_ref.rollout.tensor_model_parallel_size
        actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu
        actor_rollout_ref.rollout.enforce_eager actor_rollout_ref.rollout.free_cache_engine
        actor_rollout_ref.rollout.max_num_batched_tokens actor_rollout_ref.rollout.val_kwargs.n
        actor_rollout_ref.rollout.val_kwargs.do_sample actor_rollout_ref.rollout.multi_turn.enable
        actor_rollout_ref.rollout.prometheus.enable actor_rollout_ref.ref.fsdp_config.param_offload
        critic.optim.lr critic.model.path critic.ppo_micro_batch_size_per_gpu critic.cliprange_value
        reward_model.enable reward_model.model.path reward_model.reward_manager
        reward_model.sandbox_fusion.url custom_reward_function.path custom_reward_function.name
        data.train_files data.val_files data.train_batch_size data.max_prompt_length
        data.max_response_length data.prompt_key data.filter_overlong_prompts data.truncation
        data.image_key algorithm.adv_estimator algorithm.use_kl_in_reward
        algorithm.kl_ctrl.kl_coef algorithm.gamma algorithm.lam algorithm.norm_adv_by_std_in_grpo
        algorithm.filter_groups.enable algorithm.rollout_correction.rollout_is trainer.total_epochs
        trainer.total_training_steps trainer.val_before_train trainer.save_freq trainer.test_freq
        trainer.n_gpus_per_node trainer.nnodes trainer.logger trainer.project_name
        trainer.experiment_name trainer.default_local_dir trainer.resume_mode trainer.critic_warmup
        trainer.max_actor_ckpt_to_keep trainer.device trainer.balance_batch
        ray_kwargs.ray_init.num_cpus""",
    "OpenRLHF": """pretrain reward_pretrain remote_rm_url critic_pretrain prompt_data input_key
        label_key apply_chat_template n_samples_per_prompt rollout_batch_size train_batch_size
        micro_train_batch_size micro_rollout_batch_size actor_learning_rate critic_learning_rate
        init_kl_coef kl_estimator use_kl_loss eps_clip eps_clip_low_high value_clip gamma lambd
        advantage_estimator generate_max_len prompt_max_len max_epochs num_episodes max_samples
        zero_stage bf16 adam_offload packing_samples flash_attn gradient_checkpointing
        vllm_num_engines vllm_tensor_parallel_size vllm_sync_backend vllm_gpu_memory_utilization
        vllm_enable_sleep colocate_all_models actor_num_nodes actor_num_gpus_per_node save_path
        ckpt_path save_steps eval_steps max_ckpt_num load_checkpoint save_hf_ckpt use_wandb
        wandb_project wandb_run_name wandb_org use_tensorboard normalize_reward
        freezing_actor_steps dynamic_filtering async_train lora_rank load_in_4bit agent_func_path
        temperature top_p logging_steps prompt_split eval_dataset enable_prefix_caching
        enforce_eager ring_attn_size actor.model_name_or_path reward.remote_url
        data.prompt_dataset data.input_key data.label_key rollout.n_samples_per_prompt
        rollout.batch_size rollout.max_new_tokens rollout.top_p actor.adam.lr critic.adam.lr
        algo.kl.init_coef algo.kl.use_loss algo.advantage.estimator algo.advantage.lambd
        train.batch_size train.micro_batch_size train.num_episodes train.colocate_all
        train.async_enable vllm.num_engines ds.zero_stage ds.lora.rank ds.packing_samples
        ckpt.output_dir ckpt.save_steps ckpt.max_num eval.dataset eval.steps
        logger.wandb.key logger.wandb.project logger.logging_steps""",
}  # fmt: skip


@pytest.mark.parametrize("library", TYPED)
def test_every_name_that_is_typed_has_an_answer(library):
    # A few have the same name and meaning here.
    names = set(TYPED[library].split()) - set(known_keys("rl"))
    assert [name for name in sorted(names) if foreign_answer(name, stage="rl") is None] == []


def test_the_answers_name_options_that_exist():
    assert set(TABLES.renamed.values()) <= set(known_keys("rl")) | GROUPS


def test_the_sentences_name_options_that_exist():
    for sentence in {*TABLES.reasons.values(), *TABLES.families.values()}:
        for key in re.findall(r"\b[a-z_]+(?:\.(?:[a-z_0-9]+|\*))+", sentence):
            room, _, rest = key.partition(".")
            if room in ROOMS:
                assert rest == "*" or key in known_keys("rl"), (key, sentence)


def test_no_name_of_ours_is_taken_for_a_foreign_one():
    assert not set(TABLES.renamed) & set(known_keys("rl"))
    assert not set(TABLES.renamed) & set(TABLES.reasons)
    for key in known_keys("rl"):
        assert not any(part.startswith(tuple(TABLES.families)) for part in key.split(".")), key


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("rollout.top_p", "would not be those of the policy that is trained"),
        ("rollout.top_k", "use rollout.temperature"),
        ("lora_r", "adapter=lora (or qlora, dora, ...) with adapter.rank"),
        ("model.lora_rank", "adapter.rank"),
        ("trainer.learning_rate", "it is called trainer.lr here"),
        ("actor_rollout_ref.rollout.n", "it is called rollout.group_size here"),
        ("rollout.n", "it is called rollout.group_size here"),
        ("reward_funcs", "it is called verifier.path here"),
        ("warmup_ratio", "set trainer.warmup_steps"),
        ("val_before_train", "always evaluated before step 1"),
        ("trainer.epochs", "a run counts optimizer steps"),
        ("stop_strings", "it is called rollout.stop here"),
    ],
)
def test_answers(name, answer):
    assert answer in unknown_option(name, stage="rl")


@pytest.mark.parametrize(
    "name",
    [
        "zzz",
        "trainer.completely_else",
        "rollout.speed",
        "n",
        "x.y",
        "trainer.optim_.name",
        "mine.path",
    ],
)
def test_nothing_is_suggested_where_nothing_is_near(name):
    assert "did you mean" not in unknown_option(name, stage="rl")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("trainer.lrr", "trainer.lr"), ("rollouts.group_size", "rollout.group_size"),
     ("group_size", "rollout.group_size"), ("verifier.pth", "verifier.path")],
)  # fmt: skip
def test_what_is_near_is_suggested(name, meant):
    assert f"did you mean {meant}?" in unknown_option(name, stage="rl")


def test_a_name_with_two_answers_is_our_bug():
    with pytest.raises(AssertionError, match="lr has two answers"):
        _by_name([("trainer.lr", ["lr"]), ("critic.lr", ["lr"])])


@pytest.mark.parametrize(
    ("stage", "name", "answer"),
    [
        ("sft", "num_train_epochs", "it is called trainer.epochs here"),
        ("sft", "trainer.total_epochs", "it is called trainer.epochs here"),
        ("sft", "warmup_ratio", "it is called trainer.warmup_fraction here"),
        ("sft", "cutoff_len", "it is called data.max_tokens here"),
        ("sft", "sample_packing", "it is called trainer.packing here"),
        ("sft", "assistant_only_loss", "it is called data.train_on here"),
        ("sft", "loss_type", "it is called loss here"),
        ("sft", "neftune_noise_alpha", "it is called neftune_alpha here"),
        ("sft", "per_device_train_batch_size", "examples_per_step is what one"),
        ("sft", "learning_rate", "it is called trainer.lr here"),
        ("sft", "lora_r", "adapter=lora"),
        ("sft", "adapter.r", "it is called adapter.rank here"),
        ("sft", "per_device_eval_batch_size", "held-out rows are packed"),
        ("sft", "max_samples", "data.sources.NAME.fraction"),
        ("sft", "do_train", "the stage always trains"),
        ("sft", "train_file", "it is called data.train here"),
        ("sft", "template", "chat_template.jinja"),
        ("sft", "eval_strategy", "data.heldout or data.heldout_fraction"),
        ("sft", "ref_model", "the reference is the model that the run starts from"),
        ("preference", "dpo_beta", "it is called loss.beta here"),
        ("preference", "cpo_alpha", "loss.alpha here, an option of loss=rpo, loss=cpo"),
        ("preference", "ref.model_name_or_path", "it is called reference.path here"),
        ("preference", "reference_free", "loss=simpo"),
        ("preference", "ref_model", "it is called reference.path here"),
        ("preference", "loss_type", "it is called loss here"),
        ("preference", "loss.gamma_beta_ratio", "loss.gamma is the ratio times loss.beta"),
        ("preference", "chosen_key", "data.columns.chosen=NAME"),
        ("preference", "judge", "verifier=KIND or +reward_models.NAME.path=PATH"),
        ("reward", "num_labels", "one for loss=bradley_terry, two for loss=step"),
        ("reward", "placeholder_token", "with data.step_separator"),
        ("reward", "center_rewards_coefficient", "it is called loss.centre here"),
        ("reward", "step_separator", "it is called data.step_separator here"),
        ("distill", "teacher_model_name_or_path", "it is called teacher.path here"),
        ("distill", "lmbda", "it is called data.on_policy_fraction here"),
        ("distill", "kd_coef", "distill.beta says which one"),
        ("distill", "seq_kd", "learned by rlpost sft"),
        ("pretrain", "block_size", "it is called data.window here"),
        ("pretrain", "max_seq_length", "it is called data.max_tokens here"),
        ("pretrain", "output_dir", "it is called run.dir here"),
    ],
)
def test_answers_of_supervised_stages(stage, name, answer):
    assert answer in unknown_option(name, stage=stage)


def test_an_option_of_another_choice_is_no_foreign_name():
    said = unknown_option("loss.label_smoothing", stage="preference")
    assert said.endswith("not an option of what is chosen here, but of loss=cdpo, loss=robust")


@pytest.mark.parametrize("stage", ["sft", "pretrain", "preference", "reward", "distill"])
def test_no_answer_names_an_option_that_the_stage_lacks(stage):
    known = {*known_keys(stage), *STAGES[stage].groups}
    own, general = tables_of(stage)
    assert {*own.renamed.values(), *general.renamed.values()} <= known
    assert not {*own.renamed, *own.reasons} & known
    said = "it is called rollout.group_size here" in unknown_option("num_generations", stage=stage)
    assert said == ("rollout.group_size" in known)  # which preference has, for data.online


def test_every_name_for_supervised_stages_leads_somewhere():
    every = foreign_names("foreign_names_supervised").renamed
    assert {
        name
        for stage in ("sft", "pretrain", "preference", "reward", "distill")
        for name in tables_of(stage)[0].renamed
    } == {*every}


def test_an_option_that_every_choice_has_is_not_said_to_be_of_some():
    assert unknown_option("dpo_beta", stage="preference").endswith("it is called loss.beta here")


@pytest.mark.parametrize(
    ("stage", "name", "hint"),
    [
        ("preference", "sigmoid", "; it is called dpo here"),  # else simpo, by its letters
        ("preference", "kto_pair", "; it is called kto here"),
        ("preference", "DPO", "; did you mean dpo?"),
        ("reward", "ORM", "; it is called bradley_terry here"),
        ("reward", "prm", "; it is called step here"),
        ("reward", "sigmoid", "'sigmoid'"),
    ],
)
def test_a_choice_that_another_library_calls_otherwise_is_answered(stage, name, hint):
    with pytest.raises(HydraException) as refused:
        compose_stage([f"loss={name}"], stage=stage)
    assert explain(refused.value, stage=stage).endswith(hint)


def test_a_choice_that_is_no_name_is_answered_like_one():
    with pytest.raises(UserError, match=r"got 'lora\+'; it is called lora_plus here"):
        check_override("adapter=lora+", stage="sft")


def test_the_choices_that_are_offered_exist():
    every = {
        entry.name
        for stage in ("sft", "preference", "reward")
        for entry in STAGES[stage].registries()["loss"]
    }
    offered = foreign_names("foreign_names_supervised").choices["loss"]
    assert set(offered.values()) <= every and not set(offered) & every
