"""Proximal policy optimization on TRL's GRPOTrainer.

Schulman et al., "Proximal policy optimization algorithms" (2017); Ziegler et al., "Fine-tuning language models from
human preferences" (2019) for the KL-shaped reward, which is ExpCTR's eq. 7; RecPIE's eqs. 5-7 (`loss_type="recpie"`).
GRPOTrainer samples, calls the rewards and clips the policy ratio; this file turns its per-group advantages into
per-token ones and adds the critic. docs/algorithms/ppo.md explains every metric and numbers the departures.
"""

import copy
import inspect

import torch
from accelerate.utils import gather_object, is_peft_model
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOTrainer
from trl.data_utils import is_conversational
from trl.trainer.utils import add_fused_lm_head

from rlrec.checkpoints import WholeCheckpoints
from rlrec.ppo import advantages as adv
from rlrec.ppo import soft_prompt as soft
from rlrec.ppo import vllm
from rlrec.ppo.config import PPOConfig, check_save_steps
from rlrec.ppo.losses import approximate_kl, clipped_value_loss, masked_mean, recpie_loss
from rlrec.ppo.rewards import RewardFailure, RewardGuard, settle
from rlrec.ppo.sampler import RolloutSampler, check_pairs
from rlrec.ppo.scoring import add_scoring, recording, score_used_columns
from rlrec.ppo.value_head import (
    add_value_head,
    is_value_head,
    load_value_head,
    save_value_head,
    without_value_head,
)


class PPOTrainer(WholeCheckpoints, GRPOTrainer):
    """PPO for causal language models with any TRL reward function. Arguments are those of `GRPOTrainer`.

    One backbone serves as policy, as KL reference (LoRA: adapter off; full fine-tuning: a frozen copy) and as critic
    (a linear head on the policy's hidden states). After each training rollout every callback that has the method gets

        on_rollout(args, state, control, inputs=rows, completions=texts, rewards=(n, functions) tensor)

    with this rank's rows, completions and raw rewards (NaN where a function gave None).

    Raises:
        RewardFailure: on every rank, when a reward function on any of them raises, takes longer than
            `reward_timeout`, or returns the wrong number of rewards or an infinite one (with `on_reward_error="mask"`:
            for more completions than the budget allows), or when no completion of the rollout gets a reward.
    """

    _tag_names = ["trl", "ppo", "rlrec"]
    _name = "PPO"

    def __init__(self, model, reward_funcs, args: PPOConfig | None = None, train_dataset=None, **kwargs):
        args = PPOConfig("ppo-output") if args is None else args
        if not isinstance(args, PPOConfig):
            raise TypeError(f"args must be a PPOConfig, not a {type(args).__name__}.")
        vllm.check_policy(model, args)
        has_soft_prompt = soft.soft_prompt_of(model) is not None
        if has_soft_prompt:
            soft.check_options(args, kwargs.get("rollout_func"))
        reference = self._copy_for_reference(model, args, kwargs.get("peft_config"))
        beta, args.beta = args.beta, 0.0 if reference is not None else args.beta
        try:
            super().__init__(model=model, reward_funcs=reward_funcs, args=args, train_dataset=train_dataset, **kwargs)
        finally:
            args.beta = beta
        self.beta = beta
        if reference is not None:
            add_fused_lm_head(reference, self.temperature, args.cast_lm_head_to_fp32)
            self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)
        if is_peft_model(self.model) and args.ref_policy == "base" and "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ValueError("The policy has no trainable parameter: load its adapter with is_trainable=True.")

        if has_soft_prompt:
            soft.check_models(self._causal_lm(), self.ref_model and self.accelerator.unwrap_model(self.ref_model))
        self.has_critic = args.loss_type != "recpie"
        if self.has_critic:
            add_value_head(self._causal_lm())
        for causal_lm in (self._causal_lm(), self.ref_model):
            if causal_lm is not None:
                add_scoring(self.accelerator.unwrap_model(causal_lm), self.temperature, self._entropy_bonus_enabled)
        self._takes_position_ids = (
            not self._is_vlm and "position_ids" in inspect.signature(type(self._causal_lm()).forward).parameters
        )
        self._records_generation = self._can_record_generation()
        self._recorder = None
        self._scored = None  # (logps, values) of the latest policy pass, each (B, T)
        self._rows = None  # the dataset's rows whose prompts are tokenized now
        self._rollout = None  # rows, completions and gathered rewards of the current rollout
        if self.use_vllm:  # vLLM's model has no value head to load
            self.vllm_generation._iter_named_params = without_value_head(self.vllm_generation._iter_named_params)

    @staticmethod
    def _copy_for_reference(model, args: PPOConfig, peft_config):
        """A frozen copy of a fully fine-tuned model that was handed in; TRL would reload the weights at its path."""
        in_memory = isinstance(model, PreTrainedModel) and not is_peft_model(model) and peft_config is None
        leave_to_trl = (
            args.splits_weights or args.ref_policy == "base" or args.sync_ref_model or args.cast_lm_head_to_fp32
        )
        if not in_memory or args.beta == 0 or leave_to_trl:
            return None
        return copy.deepcopy(model).requires_grad_(False).eval()

    def _causal_lm(self):
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if is_peft_model(model) else model

    def _can_record_generation(self) -> bool:
        """Whether old log-probabilities and values are taken from `generate` instead of a pass of their own."""
        wanted = self.args.logprobs_from_generation
        possible = self.has_critic and not (
            self.use_vllm or self.use_transformers_continuous_batching or self.rollout_func or self.tools
        )
        if wanted and not possible:
            raise ValueError(
                "logprobs_from_generation=True needs PPO's own loss and plain transformers generation: no vLLM, "
                "continuous batching, rollout_func or tools."
            )
        exact = self.args.disable_dropout and not (self.args.bf16 or self.args.fp16)
        exact = exact and all(parameter.dtype == torch.float32 for parameter in self._causal_lm().parameters())
        return possible and (exact if wanted is None else wanted)

    # -- data ---------------------------------------------------------------------------------------------------------
    def _get_train_sampler(self, dataset=None):
        dataset = self.train_dataset if dataset is None else dataset
        args, unit = self.args, 1
        if "pair_id" in dataset.column_names:
            unit = 2
            rows_per_rank = args.per_device_train_batch_size * args.steps_per_generation
            check_pairs(dataset["pair_id"], rows_per_rank, self.num_generations)
        return RolloutSampler(
            len(dataset),
            args.generation_batch_size // self.num_generations,
            repeat_rows=self.num_generations,
            repeat=self.num_iterations * args.steps_per_generation,
            unit=unit,
            shuffle=self.shuffle_dataset,
            seed=args.seed,
            epoch=lambda: int(self.state.epoch or 0),
        )

    def _tokenize_prompts(self, prompts):
        tokenizer = self._tokenizer
        if is_conversational({"prompt": prompts[0]}):
            if self.chat_template is None and tokenizer.chat_template is None:
                raise ValueError(
                    f"The prompts are conversations but the tokenizer '{tokenizer.name_or_path}' has no chat "
                    "template: give plain-text prompts, or set tokenizer.chat_template."
                )
            given = self.chat_template_kwargs
            if self.args.sanitize_control_tokens:
                self.chat_template_kwargs = {"sanitize_control_tokens": True, **given}
            try:
                prompt_ids, images, fields = super()._tokenize_prompts(prompts)
            finally:
                self.chat_template_kwargs = given
        elif self.args.sanitize_control_tokens:
            # Special tokens that the tokenizer itself adds, such as a leading BOS, are still added
            prompt_ids = tokenizer(text=prompts, split_special_tokens=True)["input_ids"]
            images, fields = None, {}
        else:
            prompt_ids, images, fields = super()._tokenize_prompts(prompts)
        for prompt, ids in zip(prompts, prompt_ids):
            if not len(ids):
                raise ValueError(f"The prompt {prompt!r} has no token: a prompt must hold at least one.")
        soft_prompt = soft.soft_prompt_of(self._causal_lm())
        if soft_prompt is not None:
            prompt_ids = soft.prepend(soft_prompt, prompt_ids, self._rows)
        return prompt_ids, images, fields

    # -- scoring ------------------------------------------------------------------------------------------------------
    def _generate_single_turn(self, *args, **kwargs):
        if not self._records_generation:
            return super()._generate_single_turn(*args, **kwargs)
        with recording(self._causal_lm(), self.temperature) as self._recorder:
            return super()._generate_single_turn(*args, **kwargs)

    def _is_reference(self, model) -> bool:
        """Whether a pass through `model` now gives the reference: its own copy, or the adapter off or swapped."""
        policy = self.accelerator.unwrap_model(self.model)
        return model is self.ref_model or (
            is_peft_model(policy) and (policy._adapters_disabled or policy.active_adapter == "ref")
        )

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **kwargs
    ):
        is_reference = self._is_reference(model)
        if self._recorder is not None and not is_reference:  # TRL asks for the rollout policy's log-probabilities
            completion = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
            self._scored, self._recorder = self._recorder.result(*completion), None
            return self._scored[0], None, None
        values = []

        def score(**inputs):
            inputs.update(width=logits_to_keep, position_ids=self._takes_position_ids, with_entropy=compute_entropy)
            output = score_used_columns(model, **inputs)
            if output.state_values is not None:
                values.append(output.state_values)
            return output

        logps, entropies, aux_loss = super()._get_per_token_logps_and_entropies(
            score, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
        )
        if not is_reference:
            self._scored = logps, torch.cat(values) if values else None
        return logps, entropies, aux_loss

    # -- rollout ------------------------------------------------------------------------------------------------------
    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        guard, functions = RewardGuard(self.args.reward_timeout), self.reward_funcs
        self.reward_funcs = [guard.wrap(function, name) for function, name in zip(functions, self.reward_func_names)]
        try:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        finally:
            self.reward_funcs = functions
        reports, mask = gather_object([(guard.failure, guard.failed)]), self.args.on_reward_error == "mask"
        budget = self.args.reward_failure_budget
        try:
            rewards, failed = settle(rewards, reports, self.reward_func_names, mask=mask, budget=budget)
        except RewardFailure as failure:
            raise failure from guard.cause
        if mask:
            self._log_value("reward/failed", failed)
        self._rollout = inputs, completions, rewards
        return rewards

    def _generate_and_score_completions(self, inputs):
        self._rows = inputs
        try:
            output = super()._generate_and_score_completions(inputs)
            if output.get("old_per_token_logps") is None:  # TRL leaves them out when fully on-policy; PPO needs them
                output["old_per_token_logps"] = self._rollout_logps(output)
        finally:
            self._recorder = None
        training = self.model.training
        scores, scored = self._scores(training)
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        if not scored.all():
            # `tool_mask` keeps a token out of the loss but, unlike `completion_mask`, not out of attention
            output["tool_mask"] = mask = mask * scored[:, None]
        output["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()
        if self.has_critic:
            output.update(self._advantages(output, scores, mask))
        else:
            output["advantages"] = scores
        self._log_advantages(output["advantages"], mask)
        rows, completions, rewards = self._rollout
        if training:
            texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
            for callback in self.callback_handler.callbacks:
                if hasattr(callback, "on_rollout"):
                    local = self._local(rewards, len(rows))
                    callback.on_rollout(
                        self.args, self.state, self.control, inputs=rows, completions=texts, rewards=local
                    )
        self._rollout = self._scored = None
        return output

    def _rollout_logps(self, output) -> Tensor:
        """Log-probabilities (B, T) of the rollout under the policy that sampled it; leaves its values in _scored."""
        batch_size = self.args.per_device_train_batch_size if self.model.training else None
        multimodal = {
            name: output[name]
            for name in inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
            if name in output
        }
        with torch.no_grad():
            return self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
                torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
                output["completion_ids"].size(1),
                batch_size=batch_size,
                **multimodal,
            )[0]

    def _local(self, gathered: Tensor, count: int) -> Tensor:
        """This rank's `count` entries of a tensor gathered over ranks."""
        start = self.accelerator.process_index * count
        return gathered[start : start + count]

    def _scores(self, training: bool) -> tuple[Tensor, Tensor]:
        """This rank's rewards (B,) after weights, eq. 10, clip and baseline, and whether each completion has one."""
        rows, _, rewards_per_function = self._rollout
        scores = adv.weighted_rewards(rewards_per_function, self.reward_weights.to(rewards_per_function.device))
        if self.args.normalize_rewards:
            scores = adv.normalize_rewards(scores)
        if self.args.reward_clip is not None:
            scores = scores.clamp(-self.args.reward_clip, self.args.reward_clip)
        group_size = self.num_generations if training else self.num_generations_eval
        if self.args.baseline == "group" and group_size > 1:
            scores = adv.subtract_group_mean(scores, group_size)
        scores = self._local(scores, len(rows))
        return scores.nan_to_num(nan=0.0), ~scores.isnan()

    def _advantages(self, output, scores: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Advantages, returns and rollout values, each (B, T), from the scores (B,) of this rank's completions."""
        args, logps = self.args, output["old_per_token_logps"]
        values = self._scored[1].float() * mask
        ref_logps = output.get("ref_per_token_logps", logps)
        token_rewards, log_ratio = adv.kl_shaped_rewards(scores, logps, ref_logps, mask, self.beta)
        advantages, returns = adv.generalized_advantages(token_rewards, values, mask, args.gamma, args.lam)
        mean, variance = adv.masked_moments(advantages, mask, self._sum_over_ranks)
        _, returns_variance = adv.masked_moments(returns, mask, self._sum_over_ranks)
        totals = self._sum_over_ranks(torch.stack([log_ratio.sum(), scores.sum(), (mask.sum(dim=1) > 0).sum()]))
        kl, score = (totals[:2] / totals[2].clamp(min=1)).tolist()
        self._log_value("objective/kl", kl)
        self._log_value("objective/score", score)
        self._log_value("objective/rlhf_reward", score - self.beta * kl)
        self._log_value("value/mean", self._mean_over_ranks(masked_mean(values, mask)))
        # returns - values = advantages, so this is 1 - var(returns - values) / var(returns)
        self._log_value("value/explained_variance", 1 - (variance / returns_variance.clamp(min=1e-8)).item())
        if args.whiten_advantages:
            advantages = adv.whiten(advantages, mask, mean, variance)
        return {"advantages": advantages, "returns": returns, "old_values": values}

    def _sum_over_ranks(self, x: Tensor) -> Tensor:
        return self.accelerator.reduce(x, reduction="sum")

    def _mean_over_ranks(self, x: Tensor) -> float:
        return self.accelerator.reduce(x.detach().float(), reduction="mean").item()

    def _log_value(self, name: str, value: float) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(value)

    def _log_advantages(self, advantages: Tensor, mask: Tensor) -> None:
        """Put each completion's mean advantage where TRL logged its group-relative one, 0 for a group of one."""
        if advantages.dim() == 2:
            advantages = advantages.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        advantages = self.accelerator.gather(advantages).tolist()
        for _ in range(min(len(advantages), len(self._logs["advantages"]))):
            self._logs["advantages"].pop()
        self._logs["advantages"].extend(advantages)
        if self.num_generations == 1:
            self._metrics["train" if self.model.training else "eval"].pop("frac_reward_zero_std", None)

    # -- loss ---------------------------------------------------------------------------------------------------------
    def _compute_loss(self, model, inputs):
        if not self.has_critic:
            return self._recpie_loss(model, inputs)
        beta, self.beta = self.beta, 0.0  # the KL penalty is in the reward; in the loss it would count twice
        try:
            policy_loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        (logps, values), self._scored = self._scored, None
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        value_loss, clipfrac = clipped_value_loss(
            values, inputs["old_values"], inputs["returns"], mask, self.args.cliprange_value
        )
        approx_kl = approximate_kl(logps.detach(), inputs["old_per_token_logps"], mask)
        self._log_value("policy/approx_kl", self._mean_over_ranks(approx_kl))
        self._log_value("loss/policy", self._mean_over_ranks(policy_loss) * self._accumulation_steps())
        self._log_value("loss/value", self._mean_over_ranks(value_loss))
        self._log_value("value/clipfrac", self._mean_over_ranks(clipfrac))
        return policy_loss + self.args.vf_coef * value_loss / self._accumulation_steps()

    def _accumulation_steps(self) -> int:
        return self.current_gradient_accumulation_steps if self.model.training else 1

    def _recpie_loss(self, model, inputs):
        logps, entropies, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            inputs["completion_ids"].size(1),
            compute_entropy=True,
        )
        self._scored = None
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        loss, frac_zero_grad = recpie_loss(
            logps, inputs["ref_per_token_logps"], inputs["advantages"], mask, self.epsilon_low, self.epsilon_high
        )
        log_ratio = logps.detach() - inputs["ref_per_token_logps"]
        self._log_value("objective/kl", self._mean_over_ranks((log_ratio * mask).sum(dim=1).mean()))
        self._log_value("recpie/frac_zero_grad", self._mean_over_ranks(frac_zero_grad))
        self._log_value("entropy", self._mean_over_ranks(masked_mean(entropies, mask)))
        return loss / self._accumulation_steps()

    # -- optimizer and checkpoints ------------------------------------------------------------------------------------
    def create_optimizer(self, model=None):
        optimizer = super().create_optimizer(model)
        learning_rate = self.args.value_learning_rate
        if learning_rate is not None and self.has_critic:
            head = [p for name, p in (model or self.model).named_parameters() if is_value_head(name)]
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if not any(p is q for q in head)]
            optimizer.add_param_group({"params": head, "lr": learning_rate, "weight_decay": 0.0})
        return optimizer

    def _prepare_inputs(self, generation_batch):
        args, step = self.args, self.state.global_step
        if self.model.training and self._buffered_inputs is None:  # the first rollout of this run
            if args.save_strategy == "steps":
                check_save_steps(int(self.state.save_steps), args.rollout_cycle)  # a share of max_steps is known now
            if step % args.rollout_cycle:
                raise ValueError(
                    f"The checkpoint was saved at step {step}, inside a rollout cycle of {args.rollout_cycle} steps, "
                    "and the rollout itself is not saved: resume from a checkpoint at a multiple of that."
                )
        return super()._prepare_inputs(generation_batch)

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder, soft_prompt = output_dir or self.args.output_dir, soft.soft_prompt_of(self._causal_lm())
        if self.has_critic:
            save_value_head(self._causal_lm(), folder, state_dict)
        if soft_prompt is not None:
            soft_prompt.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        soft_prompt = soft.soft_prompt_of(self._causal_lm())
        if soft_prompt is not None:
            soft_prompt.check(resume_from_checkpoint)
        if self.has_critic and not self._engine_restores:
            load_value_head(self._causal_lm(), resume_from_checkpoint)

    def _load_best_model(self):
        super()._load_best_model()
        if self.has_critic and not self._engine_restores:
            load_value_head(self._causal_lm(), self.state.best_model_checkpoint)
