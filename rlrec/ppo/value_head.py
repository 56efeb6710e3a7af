"""The critic: one linear layer on the policy's own last hidden state, kept apart from the policy's files."""

import os
from collections.abc import Callable, Iterable, Iterator

import safetensors.torch
import torch
from torch import Tensor, nn

from rlrec.files import read_tensors, replacing

VALUE_HEAD = "value_head"  # attribute of the causal LM, prefix of its parameters, and stem of its file


class ValueHead(nn.Module):
    """V(s_t) from the hidden state that predicts token t; float32, starting at 0 everywhere.

    Starting at 0 makes the first advantages the plain rewards, and creating it draws no random number.

    >>> ValueHead(4)(torch.ones(2, 3, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden_size, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(1, dtype=torch.float32))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, H), any dtype -> values (B, T)."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(device=self.weight.device, dtype=self.weight.dtype)
            return nn.functional.linear(hidden, self.weight, self.bias).squeeze(-1)


def add_value_head(model) -> None:
    """Give the causal LM `model` a value head, left out of the files that its `save_pretrained` writes."""
    head = ValueHead(model.config.get_text_config().hidden_size)
    model.add_module(VALUE_HEAD, head.to(model.device))
    ignored = {
        *(model._keys_to_ignore_on_save or []),
        *(f"{VALUE_HEAD}.{name}" for name, _ in head.named_parameters()),
    }
    model._keys_to_ignore_on_save = ignored


def is_value_head(parameter_name: str) -> bool:
    """Whether a parameter of the (wrapped) model belongs to the value head.

    >>> is_value_head("base_model.model.value_head.weight"), is_value_head("lm_head.weight")
    (True, False)
    """
    return VALUE_HEAD in parameter_name.split(".")


def without_value_head(parameters: Callable[[], Iterable[tuple[str, Tensor]]]) -> Callable[[], Iterator]:
    """The same source of (name, parameter) pairs, without those of the value head.

    >>> list(without_value_head(lambda: [("lm_head.weight", 1), ("value_head.bias", 2)])())
    [('lm_head.weight', 1)]
    """
    return lambda: (pair for pair in parameters() if not is_value_head(pair[0]))


def save_value_head(model, folder: str, state_dict: dict[str, Tensor] | None) -> None:
    """Write value_head.safetensors; under ZeRO-3 and FSDP the caller's gathered `state_dict` holds the weights."""
    gathered = {name: tensor for name, tensor in (state_dict or {}).items() if is_value_head(name)}
    tensors = gathered or getattr(model, VALUE_HEAD).state_dict()
    tensors = {name.rsplit(".", 1)[-1]: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    path = os.path.join(folder, f"{VALUE_HEAD}.safetensors")
    with replacing(path, checksum=False) as temporary:
        safetensors.torch.save_file(tensors, temporary)


def load_value_head(model, folder: str) -> None:
    """Read value_head.safetensors back into the model.

    Raises:
        FileNotFoundError: when the checkpoint has none.
    """
    path = os.path.join(folder, f"{VALUE_HEAD}.safetensors")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is missing: the checkpoint was not saved by PPOTrainer, so it has no critic.")
    getattr(model, VALUE_HEAD).load_state_dict(read_tensors(path))
