"""What PPOTrainer does where vLLM samples its completions: what vLLM cannot sample is refused, its server is left."""

import atexit

from trl.import_utils import is_vllm_available

from rlrec.ppo.config import PPOConfig


def check_policy(model, args: PPOConfig) -> None:
    """Raise ValueError where vLLM, which knows the weights alone, would sample from another policy than this one."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if args.use_vllm and hasattr(model, "restrict_logits"):
        raise ValueError(
            f"use_vllm cannot sample from a {type(model).__name__}: its forward restricts the vocabulary "
            "(restrict_logits), which vLLM does not know of; set use_vllm=False, or train another model."
        )


def check_command(args: PPOConfig, model_name_or_path: str, soft_prompt: bool = False) -> None:
    """Raise ValueError where a recipe's settings do not go with vLLM, before anything is loaded or trained."""
    if not args.use_vllm:
        return
    if model_name_or_path == "tiny":
        raise ValueError(
            "use_vllm cannot serve the embedded policy 'tiny', which restricts its vocabulary: give another "
            "model_name_or_path, or leave use_vllm out."
        )
    if soft_prompt:
        raise ValueError(
            "use_vllm cannot sample from a policy with a soft prompt, which vLLM would need as prompt embeddings: set "
            "soft_prompt to false, or leave use_vllm out."
        )
    if not is_vllm_available():
        raise ValueError(
            "use_vllm needs vLLM in this environment, also where a server generates: install rlrec[vllm]."
        )


def leave_server(generation) -> None:
    """End the group in which the main rank sends weights to a vLLM server; nothing where there is none.

    The group listens on `vllm_group_port` until the program ends, and alternating training has one trainer after
    another in one program, which all listen there.
    """
    client = getattr(generation, "vllm_client", None)
    if client is not None:
        client.close_communicator()
        atexit.unregister(client.close_communicator)
