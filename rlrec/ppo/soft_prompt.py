"""What PPOTrainer does with a policy that has a soft prompt (`causal_lm.soft_prompt`, an object as in
`rlrec.policies.soft_prompt`: `prepend(prompt_ids, user_ids)`, `save(directory)`, `check(directory)`)."""

from collections.abc import Mapping, Sequence

from rlrec.ppo.config import PPOConfig


def soft_prompt_of(model):
    """The soft prompt of a causal LM, of a PeftModel, or of a model's name (None)."""
    return getattr(model.get_base_model() if hasattr(model, "get_base_model") else model, "soft_prompt", None)


def check_options(args: PPOConfig, rollout_func) -> None:
    """Raise ValueError where something would generate without the policy's soft prompt, or trip over its tokens."""
    if args.use_vllm:
        raise ValueError(
            "use_vllm cannot sample from a policy with a soft prompt, which vLLM would need as prompt embeddings: set "
            "use_vllm=False, or train without the soft prompt."
        )
    if rollout_func is not None:
        raise ValueError("rollout_func tokenizes prompts itself, without the policy's soft prompt: leave one out.")
    if args.repetition_penalty != 1.0 or (args.generation_kwargs or {}).get("repetition_penalty", 1.0) != 1.0:
        raise ValueError(
            "repetition_penalty looks up every prompt token's logit, and a soft prompt's token has none: set it to 1."
        )


def check_models(policy, reference) -> None:
    """Raise ValueError unless the soft prompt is in the policy's embedding, and in the reference if it is a model."""
    if getattr(policy.get_input_embeddings(), "soft_prompt", None) is not policy.soft_prompt:
        raise ValueError(
            "The policy's input embedding was wrapped or replaced after its soft prompt was attached (an adapter on "
            "it, or another vocabulary size): keep adapters off the embedding and attach the soft prompt last."
        )
    if reference is not None and getattr(reference, "soft_prompt", None) is None:
        raise ValueError(
            "The KL reference is loaded from the model's path and has no soft prompt: train a LoRA adapter, or use "
            "ref_policy='initial' without sharding, or beta=0."
        )


def prepend(soft_prompt, prompt_ids: Sequence[Sequence[int]], rows: Sequence[Mapping]) -> list[list[int]]:
    """The prompts' token ids behind those of the rows' consumers."""
    for row in rows:
        if "user_id" not in row:
            raise ValueError(
                f"The policy has a soft prompt, so every row needs the column 'user_id'; this one has {list(row)}."
            )
    return soft_prompt.prepend(prompt_ids, [row["user_id"] for row in rows])
