"""Log-probabilities, entropies and values of given completions, from one forward pass of the policy.

TRL's `add_fused_lm_head` turns a causal LM into one that returns log-probabilities without keeping the logits. The
patch here goes around it and adds: only the completion's positions reach the LM head, values come out of the same
pass, a policy's `restrict_logits` is honoured, and log-probabilities can be recorded while `generate` runs.

The causal LM's `forward` is patched, because PEFT calls it directly and a hook on the module would not fire; the
backbone below it is entered as a module, so there a hook is fine.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from rlrec.ppo.value_head import VALUE_HEAD

# On a CPU TRL's tiled LM head costs four times the matrix product it does. Up to this many logits (128 MiB) the
# model's own forward is used instead, and entropies are computed on pieces that stay in the processor's cache.
FEW_LOGITS = 2**25
CACHED_LOGITS = 2**18


@dataclass
class ScoredOutput(FusedCausalLMOutput):
    """TRL's output plus `state_values` (not `values`, a method of the dict that every ModelOutput is)."""

    state_values: Tensor | None = None


class GenerationRecorder:
    """Collects log-probability and value of every token while `generate` samples it.

    The logits that predict token t are seen at call t, the token itself only in the input of call t + 1.
    """

    def __init__(self, temperature: float):
        self.temperature = temperature
        self.logps: list[Tensor] = []
        self.values: list[Tensor] = []
        self._log_probs: Tensor | None = None

    def add(self, input_ids: Tensor, logits: Tensor, values: Tensor) -> None:
        """One call of the policy: input_ids (B, any), logits (B, any, V), values (B, 1) of the last position."""
        self._settle(input_ids[:, -1])
        self._log_probs = torch.log_softmax(logits[:, -1].float() / self.temperature, dim=-1)
        self.values.append(values[:, 0])

    def _settle(self, tokens: Tensor) -> None:
        if self._log_probs is not None:
            self.logps.append(self._log_probs.gather(1, tokens[:, None])[:, 0])
            self._log_probs = None

    def result(self, completion_ids: Tensor, completion_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values (B, T) of the sampled completions (B, T), 0 where masked."""
        width = completion_ids.size(1)
        if len(self.logps) < width and self._log_probs is not None:
            self._settle(completion_ids[:, len(self.logps)])
        columns = zip(self.logps[:width], self.values[:width])
        logps, values = (torch.stack(column, dim=1) for column in zip(*columns))
        padding = (0, width - logps.size(1))  # pad_to_multiple_of can make the batch wider than what was sampled
        masked = ~completion_mask.bool()
        return tuple(torch.nn.functional.pad(x, padding).masked_fill(masked, 0) for x in (logps, values))


@contextmanager
def recording(model, temperature: float) -> Iterator[GenerationRecorder]:
    """Record the log-probabilities and values of the patched causal LM's `generate` calls inside the context."""
    model.generation_recorder = GenerationRecorder(temperature)
    try:
        yield model.generation_recorder
    finally:
        del model.generation_recorder


@contextmanager
def _backbone_states(model, select: Callable[[Tensor], Tensor] | None = None) -> Iterator[list[Tensor]]:
    """Collect the backbone's last hidden states (B, L, H); the LM head gets what `select`, if given, makes of them."""
    collected = []

    def collect(module, arguments, output):
        collected.append(output.last_hidden_state)
        if select is not None:
            output.last_hidden_state = select(output.last_hidden_state)
        return output

    handle = model.base_model.register_forward_hook(collect)
    try:
        yield collected
    finally:
        handle.remove()


def add_scoring(model, temperature: float, entropy_gradient: bool = False) -> None:
    """Patch the forward of a causal LM that already went through TRL's `add_fused_lm_head`.

    `model(..., labels=labels, fused_lm_head=True, positions_to_score=T)` returns a `ScoredOutput` whose fields are
    (B, T), for the last T tokens; `state_values` is None without a value head. Labels of -100 score 0.
    `with_entropy=False` may leave `entropy` None. Gradients flow through it with `entropy_gradient`.
    """
    fused_forward = model.forward
    vocab_size = model.config.get_text_config().vocab_size
    takes_logits_to_keep = "logits_to_keep" in inspect.signature(type(model).forward).parameters

    @functools.wraps(type(model).forward)
    def forward(self, *args, fused_lm_head=False, positions_to_score=None, with_entropy=True, labels=None, **kwargs):
        value_head = getattr(self, VALUE_HEAD, None)
        recorder = getattr(self, "generation_recorder", None)
        if not fused_lm_head:
            if labels is not None:
                kwargs["labels"] = labels
            if recorder is None:
                return fused_forward(*args, **kwargs)
            with _backbone_states(self) as states:
                output = fused_forward(*args, **kwargs)
            recorder.add(kwargs["input_ids"], output.logits, value_head(states[-1][:, -1:]))
            return output
        labels = labels[:, -positions_to_score:]
        scored = labels != -100
        columns = slice(-positions_to_score - 1, -1)  # the state at position t predicts token t + 1
        if hasattr(self, "restrict_logits"):
            if takes_logits_to_keep:
                kwargs["logits_to_keep"] = positions_to_score + 1
            with _backbone_states(self) as states:
                output = fused_forward(*args, use_cache=False, **kwargs)
            logits = output.logits[:, columns][scored]
        elif labels.device.type == "cpu" and labels.numel() * vocab_size <= FEW_LOGITS:
            with _backbone_states(self, lambda hidden: hidden[:, columns][scored][None]) as states:
                output = fused_forward(*args, use_cache=False, **kwargs)
            logits = output.logits[0]
        else:
            # TRL's fused head drops the last hidden state and the first label: give it one position more
            shifted = torch.nn.functional.pad(labels, (1, 0), value=-100)
            with _backbone_states(self, lambda hidden: hidden[:, -positions_to_score - 1 :]) as states:
                output = ScoredOutput(**fused_forward(*args, fused_lm_head=True, labels=shifted, **kwargs))
            logits = None
        if logits is not None:
            fields = _score_logits(logits, labels[scored], temperature, with_entropy, entropy_gradient)
            fields = {name: x.new_zeros(labels.shape).masked_scatter(scored, x) for name, x in fields.items()}
            output = ScoredOutput(**fields, aux_loss=output.get("aux_loss"))
        if value_head is not None:
            output.state_values = value_head(states[-1][:, columns])
        return output

    model.forward = types.MethodType(forward, model)


def _score_logits(logits: Tensor, tokens: Tensor, temperature: float, entropy: bool, gradient: bool) -> dict:
    """Log-probabilities and entropies (N,) from logits (N, V), which may hold -inf, and tokens (N,)."""
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    fields = {"log_probs": -torch.nn.functional.cross_entropy(logits, tokens, reduction="none")}
    if entropy:
        with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
            fields["entropy"] = torch.cat(
                [_entropy(rows) for rows in logits.split(max(1, CACHED_LOGITS // logits.size(1)))]
            )
    return fields


def _entropy(logits: Tensor) -> Tensor:
    """Entropy (N,) of the distributions whose logits (N, V) are given; -inf is a probability of 0."""
    log_probs = torch.log_softmax(logits, dim=-1)
    return -torch.linalg.vecdot(log_probs.exp(), log_probs.masked_fill(log_probs == -torch.inf, 0))
