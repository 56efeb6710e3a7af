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

# On a CPU TRL's tiled LM head takes several times as long as its matrix product. Up to this many logits (128 MiB) the
# model's own LM head is used instead.
FEW_LOGITS = 2**25
CACHED_LOGITS = 2**16  # logits that are worked on at once: 256 KiB


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


def score_used_columns(
    model, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, width: int, position_ids: bool, **inputs
) -> ScoredOutput:
    """The patched `model` on the columns that some row of the batch uses; fields are (B, width), 0 for other columns.

    Args:
        model: the patched causal LM, or what PEFT, DDP and the like made of it.
        input_ids, attention_mask, labels: (B, L); prompts padded on the left, completions on the right.
        width: completion columns, the last ones.
        position_ids: whether the model takes them. Where prompts are padded, positions are then counted from the
            first real token, as `generate` counts them; a model with absolute positions would disagree otherwise.
        inputs: anything else the model needs; pixels and the like tie columns together, so none is left out.
    """
    length = input_ids.size(1)
    first, last = 0, length
    if not any(isinstance(value, Tensor) for value in inputs.values()):
        used = attention_mask.any(dim=0).int()
        first, last = int(used.argmax()), max(length - int(used.flip(0).argmax()), length - width + 1)
    columns, missing = slice(first, last), length - last
    if position_ids and not attention_mask[:, first].all():
        inputs["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, columns]
    output = model(
        input_ids=input_ids[:, columns],
        attention_mask=attention_mask[:, columns],
        labels=labels[:, columns],
        positions_to_score=width - missing,
        **inputs,
    )
    for name in ("log_probs", "entropy", "state_values"):
        if getattr(output, name) is not None:
            setattr(output, name, torch.nn.functional.pad(getattr(output, name), (0, missing)))
    return output


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


@contextmanager
def _short_last_mlp(model, positions: int) -> Iterator[None]:
    """Run the MLP of the last layer on the last `positions` positions only; elsewhere nothing reads its output.

    Attention is over by then, so no scored position depends on the others' MLP. In a model of few layers with long
    prompts that is a good part of the work: a quarter of a pass of two layers where prompts are twice as long as
    completions.
    """
    layers = getattr(model.base_model, "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if layers is not None else None
    is_mixture = hasattr(model.config.get_text_config(), "output_router_logits")  # its routing loss reads every token
    recomputed = model.is_gradient_checkpointing and torch.is_grad_enabled()  # again in backward, without these hooks
    if mlp is None or is_mixture or recomputed:
        yield
        return
    left_out = []

    def shorten(module, arguments):
        left_out.append(arguments[0].size(1) - positions)
        return (arguments[0][:, -positions:], *arguments[1:])

    def restore(module, arguments, output):
        return torch.nn.functional.pad(output, (0, 0, left_out.pop(), 0))

    handles = [mlp.register_forward_pre_hook(shorten), mlp.register_forward_hook(restore)]
    try:
        yield
    finally:
        for handle in handles:
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
        short_mlp = _short_last_mlp(self, positions_to_score + 1)
        if hasattr(self, "restrict_logits"):
            if takes_logits_to_keep:
                kwargs["logits_to_keep"] = positions_to_score + 1
            with short_mlp, _backbone_states(self) as states:
                output = fused_forward(*args, use_cache=False, **kwargs)
            logits = output.logits[:, columns][scored]
        elif labels.device.type == "cpu" and labels.numel() * vocab_size <= FEW_LOGITS:
            with short_mlp, _backbone_states(self, lambda hidden: hidden[:, columns][scored][None]) as states:
                output = fused_forward(*args, use_cache=False, **kwargs)
            logits = output.logits.squeeze(0)  # indexing would copy them in the backward pass
        else:
            # TRL's fused head drops the last hidden state and the first label: give it one position more
            shifted = torch.nn.functional.pad(labels, (1, 0), value=-100)
            with short_mlp, _backbone_states(self, lambda hidden: hidden[:, -positions_to_score - 1 :]) as states:
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
    """Log-probabilities and, if asked for, entropies (N,) from logits (N, V), which may hold -inf, and tokens (N,)."""
    if entropy and gradient:
        log_probs = torch.log_softmax(logits.float() / temperature, dim=-1)
        information = log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0)
        return {"log_probs": log_probs.gather(1, tokens[:, None])[:, 0], "entropy": -information.sum(dim=-1)}
    log_probs, entropies = TokenScores.apply(logits, tokens, 1 / temperature, entropy)
    return {"log_probs": log_probs, "entropy": entropies} if entropy else {"log_probs": log_probs}


class TokenScores(torch.autograd.Function):
    """Log-probabilities of tokens (N,), with gradient, and entropies (N,), without, from logits (N, V).

    The rows are taken in pieces that fit the processor's cache, so the logits are read from memory once, and nothing
    of their size is kept or written but their gradient.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, tokens: Tensor, inverse_temperature: float, entropy: bool):
        log_z, log_probs, entropies = (torch.empty(len(logits), device=logits.device) for _ in range(3))
        for rows in _pieces(logits):
            z = (
                logits[rows].float().mul(inverse_temperature).clamp_(min=-1e30)
            )  # 0 * -1e30 is 0, where 0 * -inf is NaN
            log_z[rows] = z.logsumexp(dim=1)
            log_probs[rows] = z.gather(1, tokens[rows, None])[:, 0] - log_z[rows]
            if entropy:
                probabilities = (z - log_z[rows, None]).exp_()
                entropies[rows] = log_z[rows] - torch.linalg.vecdot(probabilities, z)
        ctx.save_for_backward(logits, tokens, log_z)
        ctx.inverse_temperature = inverse_temperature
        ctx.mark_non_differentiable(entropies)
        return log_probs, entropies

    @staticmethod
    def backward(ctx, grad_log_probs: Tensor, _):
        logits, tokens, log_z = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        scale = grad_log_probs * ctx.inverse_temperature
        for rows in _pieces(logits):
            z = logits[rows].float().mul(ctx.inverse_temperature)
            gradient[rows] = z.sub_(log_z[rows, None]).exp_().mul_(-scale[rows, None])
        return gradient.scatter_add_(1, tokens[:, None], scale[:, None].to(gradient.dtype)), None, None, None


def _pieces(logits: Tensor) -> Iterator[slice]:
    step = max(1, CACHED_LOGITS // logits.size(1))
    return (slice(start, start + step) for start in range(0, len(logits), step))
