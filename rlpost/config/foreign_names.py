"""Names that users of other libraries type, and what they are called here.

Owns a table. An override with a foreign name is refused with the right name, never
translated silently: the defaults around it differ.
"""

FOREIGN_NAMES: dict[str, str] = {
    # TRL
    "learning_rate": "trainer.lr",
    "num_generations": "rollout.group_size",
    "max_completion_length": "rollout.max_tokens",
    "max_prompt_length": "data.max_prompt_tokens",
    "per_device_train_batch_size": "trainer.max_tokens_per_micro_batch",
    "beta": "algorithm.kl.coefficient",
    "epsilon": "loss.clip_low",
    "epsilon_high": "loss.clip_high",
    "loss_type": "algorithm.reduction.aggregation",
    "max_steps": "trainer.steps",
    "temperature": "rollout.temperature",
    "output_dir": "run.dir",
    "max_grad_norm": "trainer.max_grad_norm",
    # verl
    "actor_rollout_ref.model.path": "model.path",
    "actor_rollout_ref.actor.optim.lr": "trainer.lr",
    "actor_rollout_ref.actor.clip_ratio": "loss.clip_low",
    "actor_rollout_ref.actor.clip_ratio_low": "loss.clip_low",
    "actor_rollout_ref.actor.clip_ratio_high": "loss.clip_high",
    "actor_rollout_ref.actor.kl_loss_coef": "algorithm.kl.coefficient",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": "trainer.max_tokens_per_micro_batch",
    "actor_rollout_ref.rollout.n": "rollout.group_size",
    "actor_rollout_ref.rollout.temperature": "rollout.temperature",
    "actor_rollout_ref.rollout.gpu_memory_utilization": "generator.gpu_memory_utilization",
    "actor_rollout_ref.rollout.tensor_model_parallel_size": "generator.tensor_parallel_size",
    "algorithm.adv_estimator": "algorithm/advantage",
    "data.train_files": "data.train",
    "data.val_files": "data.heldout",
    "data.train_batch_size": "rollout.prompts_per_step",
    "data.max_prompt_length": "data.max_prompt_tokens",
    "data.max_response_length": "rollout.max_tokens",
    "trainer.total_training_steps": "trainer.steps",
    "trainer.save_freq": "checkpoint.every",
    "trainer.test_freq": "evaluation.every",
    "trainer.experiment_name": "run.name",
    "trainer.project_name": "tracking.project",
    # OpenRLHF
    "pretrain": "model.path",
    "prompt_data": "data.train",
    "actor_learning_rate": "trainer.lr",
    "n_samples_per_prompt": "rollout.group_size",
    "rollout_batch_size": "rollout.prompts_per_step",
    "init_kl_coef": "algorithm.kl.coefficient",
    "eps_clip": "loss.clip_low",
    "zero_stage": "trainer.zero_stage",
    "vllm_num_engines": "generator.num",
    "vllm_tensor_parallel_size": "generator.tensor_parallel_size",
    "save_steps": "checkpoint.every",
    "eval_steps": "evaluation.every",
}


def foreign_answer(name: str) -> str | None:
    """Return what to do instead of ``name``; None where no library calls anything so."""
    parts = name.split(".")
    for start in range(len(parts)):
        key = ".".join(parts[start:])
        if key in FOREIGN_NAMES:
            return f"it is called {FOREIGN_NAMES[key]} here"
    return None
