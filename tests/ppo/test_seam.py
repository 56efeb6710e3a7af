"""The private parts of TRL that PPOTrainer overrides or calls: when an upgrade changes one, this says so by name."""

import dataclasses
import inspect

import pytest
import transformers
import trl
from peft import PeftModel
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head, is_async_callable

SIGNATURES = {
    "_get_train_sampler": ["self", "dataset"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "create_optimizer": ["self", "model"],
    "_save": ["self", "output_dir", "state_dict"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_load_best_model": ["self"],
    "_get_output_dir": ["self", "trial"],  # this and below: of rlrec.checkpoints
    "_save_checkpoint": ["self", "model", "trial"],
    "_push_from_checkpoint": ["self", "checkpoint_folder"],
    "_build_accelerator_args": ["self", "kwargs"],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_overridden_method_keeps_its_signature(name):
    assert list(inspect.signature(getattr(trl.GRPOTrainer, name)).parameters) == SIGNATURES[name]


def test_what_staged_checkpoints_rely_on():
    """Each epoch is one call with keywords only, and a checkpoint asks for the run's folder by `_get_output_dir`."""
    assert "self._run_epoch(\n                model=model,\n" in inspect.getsource(
        trl.GRPOTrainer._inner_training_loop
    )
    assert "run_dir = self._get_output_dir(trial=trial)" in inspect.getsource(transformers.Trainer._save_checkpoint)


def test_log_probability_method():
    parameters = list(inspect.signature(trl.GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert parameters[:7] == [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
    ]  # fmt: skip


def test_fused_head():
    assert list(inspect.signature(add_fused_lm_head).parameters) == [
        "model", "temperature", "cast_lm_head_to_fp32", "outputs",
    ]  # fmt: skip
    fields = {field.name for field in dataclasses.fields(FusedCausalLMOutput)}
    assert {"log_probs", "entropy", "aux_loss"} <= fields
    assert "state_values" not in fields
    source = inspect.getsource(trl.GRPOTrainer._get_per_token_logps_and_entropies)
    assert "model(**model_inputs, labels=labels, fused_lm_head=True)" in source


@pytest.mark.parametrize(
    ("owner", "attribute"),
    [
        (trl.GRPOTrainer.__init__, "self.beta = args.beta"),
        (trl.GRPOTrainer.__init__, "self.ref_model"),
        (trl.GRPOTrainer.__init__, "self._tokenizer"),
        (trl.GRPOTrainer.__init__, "self._is_vlm"),
        (trl.GRPOTrainer.__init__, "self.chat_template_kwargs"),
        (trl.GRPOTrainer.__init__, "self.reward_func_names"),
        (trl.GRPOTrainer.__init__, "self._buffered_inputs = None"),
        (trl.GRPOTrainer.__init__, 'model.add_adapter("ref", default_config)'),
        (trl.GRPOTrainer.__init__, '"advantages": deque'),
        (trl.GRPOTrainer._generate_and_score_completions, 'prompts = [x["prompt"] for x in inputs]'),
        (trl.GRPOTrainer._generate, "prompt_ids, images, multimodal_fields = self._tokenize_prompts(prompts)"),
        (trl.GRPOTrainer._generate_and_score_completions, 'output["old_per_token_logps"]'),
        (trl.GRPOTrainer._generate_and_score_completions, 'output["ref_per_token_logps"]'),
        (trl.GRPOTrainer._generate_and_score_completions, "frac_reward_zero_std"),
        (trl.GRPOTrainer._calculate_rewards, "zip(self.reward_funcs, self.reward_processing_classes"),
        (trl.GRPOTrainer._compute_loss, 'completion_mask if "tool_mask" not in inputs'),
        (trl.GRPOTrainer._compute_loss, "self.current_gradient_accumulation_steps"),
        (grpo_trainer.GRPOConfig.__post_init__, "self.num_generations < 2"),
    ],
)
def test_relied_upon_lines_are_still_there(owner, attribute):
    assert attribute in inspect.getsource(inspect.unwrap(owner))


def test_helpers():
    assert callable(VLLMGeneration._iter_named_params)
    assert not is_async_callable(len)
    assert "_adapters_disabled" in inspect.getsource(PeftModel.disable_adapter)
