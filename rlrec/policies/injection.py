"""A frozen LLM that reads vectors: in the places of placeholder tokens, and added to Q, K and V of every layer.

Paper: SELLER (Zhang et al., "Sequence-aware Large Language Models for Explainable Recommendation"), section 3.1.3,
eqs. 9 to 12. `InjectedLLM` takes any adapter that makes T vectors of the LLM's width, so that the prompts of other
systems that hold vectors are read by the same code.

    X = [system; e_1; ...; e_T; text]                                              (eq. 9)
    Q_l = Q_l^base + e,  K_l = K_l^base + e,  V_l = V_l^base + e,  e = sum of e_t  (eq. 10)

Rulings where the paper is silent, and departures, numbered:
1. Q^base, K^base and V^base are what the projections give. The sum is thus there before the rotary embedding turns Q
   and K, and with Qwen3 also before its q_norm and k_norm, which give every head of Q and K the same length again.
2. Eq. 10 needs projections of the LLM's width H. To one that is H wide, as all are in plain multi-head attention, e is
   added as it is. Else (K and V of grouped-query attention, and Q of Qwen3 models whose heads do not add up to H) it
   passes a linear without bias, one for Q and one for K and V, the same in all layers and trained with the adapter. It
   starts as the mean over heads: a head of K gets the mean of what the query heads of its group get; where there are
   more heads than H has room for, several get the same.
3. e is added at every position: the prompt's, the explanation's and the padding's, which nothing attends to.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlrec.files import read_json, read_tensors, replacing

PLACEHOLDER = "<|vector|>"  # stands in a prompt where a vector is read
WEIGHTS_FILE = "adapter.safetensors"
IDENTITY_FILE = "adapter.json"
FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
PROJECTIONS = ("q_proj", "k_proj", "v_proj")
SIZES = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


class InjectedLLM(nn.Module):
    """A frozen causal LM with an adapter, whose vectors it reads by eqs. 9 and 10; only the adapter is trained.

    The LLM itself stays as it is: what is added is there only while `forward` or `generate` runs.

    Args:
        llm: a causal LM. All its parameters are frozen.
        adapter: `adapter(**features) -> (B, T, H)`, H the LLM's width; T may be 0. Where it has a JSON-able dict
            `settings`, that is saved with it and compared on loading.
        inject: eq. 10. Without it there are no hooks, and any causal LM will do.

    Raises:
        ValueError: `inject` with an LLM of a family whose projections are not known.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    >>> class Adapter(nn.Linear):
    ...     def forward(self, state):  # (B, 3) -> (B, 1, 16)
    ...         return super().forward(state)[:, None]
    >>> model = InjectedLLM(LlamaForCausalLM(LlamaConfig(**sizes)), Adapter(3, 16))
    >>> ids = torch.tensor([[1, model.placeholder_id, 5]])
    >>> model(input_ids=ids, features={"state": torch.ones(1, 3)}).logits.shape
    torch.Size([1, 3, 20])
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['adapter.weight', 'adapter.bias']
    """

    accepts_loss_kwargs = True  # the Trainer may hand `num_items_in_batch` through to the LLM's loss

    def __init__(self, llm: PreTrainedModel, adapter: nn.Module, inject: bool = True):
        super().__init__()
        self.llm, self.adapter, self.inject = llm.requires_grad_(False), adapter, inject
        self._base = fingerprint(llm)  # now, because a trainer may split the weights over processes
        self.widths = nn.ModuleDict()  # a linear for each of Q, and K and V, that is not H wide
        self._sums: Mapping[str, Tensor] | None = None
        if inject:
            projections = self._projections()
            for name, projection in (("query", "q_proj"), ("key_value", "k_proj")):
                width = next(module.out_features for each, module in projections if each == projection)
                if width != llm.config.hidden_size:
                    self.widths[name] = _mean_over_heads(llm.config, width)

    @property
    def config(self):
        return self.llm.config

    @property
    def device(self) -> torch.device:
        return self.llm.device

    @property
    def placeholder_id(self) -> int:
        """The placeholder's token id: one behind the vocabulary, so that no text spells it and no LLM writes it."""
        return self.llm.get_input_embeddings().weight.shape[0]

    # -- eqs. 9 to 12 -------------------------------------------------------------------------------------------------
    def forward(
        self,
        input_ids: Tensor,
        features: Mapping[str, Tensor],
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs,
    ):
        """The LLM's output for whole sequences.

        Args:
            input_ids: (B, L), T of each row's tokens being `placeholder_id`.
            features: what the adapter takes, B rows each.
            attention_mask: (B, L); padding may be on either side.
            labels: (B, L) for eq. 12, -100 where no token of the explanation is.
            kwargs: for the LLM.

        Raises:
            ValueError: a row does not have as many placeholders as the adapter gives vectors.
        """
        vectors = self.adapter(**features)
        with self._adding(vectors):
            return self.llm(
                inputs_embeds=self._embed(input_ids, vectors), attention_mask=attention_mask, labels=labels, **kwargs
            )

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, features: Mapping[str, Tensor], attention_mask: Tensor | None = None, **kwargs
    ) -> Tensor:
        """(B * num_return_sequences, new tokens) what the LLM writes after left-padded prompts; the prompt left out.

        `kwargs` are those of the LLM's `generate`; the KV cache is always used. Call `eval()` first: the adapter's
        dropout is not switched off here. Without `attention_mask` no token is taken for padding.
        """
        vectors = self.adapter(**features)
        if attention_mask is None:  # the LLM would take placeholders, which are id 0 for it, for padding
            attention_mask = torch.ones_like(input_ids)
        with self._adding(vectors):
            sequences = self.llm.generate(
                # the ids are for what counts words of the prompt, such as a repetition penalty
                input_ids=input_ids.masked_fill(input_ids == self.placeholder_id, 0),
                inputs_embeds=self._embed(input_ids, vectors),
                attention_mask=attention_mask,
                **kwargs,
            )
        return sequences[:, input_ids.shape[1] :]

    def _embed(self, input_ids: Tensor, vectors: Tensor) -> Tensor:
        """(B, L) ids and (B, T, H) vectors -> (B, L, H): a row's k-th placeholder becomes its k-th vector (eq. 9)."""
        places = input_ids == self.placeholder_id
        counts = places.sum(1).tolist()
        for row, count in enumerate(counts):
            if count != vectors.shape[1]:
                raise ValueError(
                    f"Row {row} of the batch has {count} placeholders {PLACEHOLDER} for {vectors.shape[1]} vectors of "
                    "the adapter: put exactly one into the prompt for each vector, and none into other texts."
                )
        embedded = self.llm.get_input_embeddings()(input_ids.masked_fill(places, 0))
        return embedded.masked_scatter(places[..., None], vectors.to(embedded))

    def _adding(self, vectors: Tensor):
        """A context in which the sum of (B, T, H) vectors is added to Q, K and V (eq. 10); empty without `inject`."""
        if not self.inject:
            return nullcontext()
        total = vectors.sum(1)
        query = self.widths["query"](total) if "query" in self.widths else total
        key_value = self.widths["key_value"](total) if "key_value" in self.widths else total
        return self._hooked({"q_proj": query, "k_proj": key_value, "v_proj": key_value})

    @contextmanager
    def _hooked(self, sums: Mapping[str, Tensor]) -> Iterator[None]:
        def add(total, module, given, output):
            repeated = total.repeat_interleave(len(output) // len(total), dim=0)  # beams and returned sequences
            return output + repeated[:, None].to(output)

        handles = [
            module.register_forward_hook(functools.partial(add, sums[name])) for name, module in self._projections()
        ]
        self._sums = sums
        try:
            yield
        finally:
            self._sums = None
            for handle in handles:
                handle.remove()

    def _projections(self) -> list[tuple[str, nn.Module]]:
        """(name, module) of q_proj, k_proj and v_proj of every layer."""
        config = self.llm.config
        named = ((name.rpartition(".")[2], module) for name, module in self.llm.named_modules())
        found = [(name, module) for name, module in named if name in PROJECTIONS]
        layers = config.num_hidden_layers if config.model_type in FAMILIES else 0
        if not layers or len(found) != layers * len(PROJECTIONS):
            raise ValueError(
                f"Vectors cannot be added to Q, K and V of a {type(self.llm).__name__} (model type "
                f"'{config.model_type}'): take a model of {', '.join(FAMILIES.values())}, or inject=False."
            )
        return found

    # -- gradient checkpointing ---------------------------------------------------------------------------------------
    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping | None = None, **kwargs
    ) -> None:
        """Compute a layer's activations again in the backward pass, then too with this batch's vectors.

        Raises:
            ValueError: reentrant checkpoints are asked for, which would cut the adapter's gradients.
        """
        options = dict(activation_checkpointing_kwargs or {})
        if options.get("use_reentrant"):
            raise ValueError("Reentrant checkpoints lose the adapter's gradients: set use_reentrant to False.")
        options |= {"use_reentrant": False, "context_fn": self._recomputing}
        enable = getattr(self.llm, "activation_checkpointing_enable", self.llm.gradient_checkpointing_enable)
        enable(options, **kwargs)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping | None = None, **kwargs) -> None:
        """The older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **kwargs)

    def _recomputing(self):
        """Contexts of a layer's first pass, which runs under `_hooked` already, and of its second, which does not."""
        second = nullcontext() if self._sums is None else self._hooked(self._sums)
        return nullcontext(), second

    # -- files --------------------------------------------------------------------------------------------------------
    def trained_state(self, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """State of the adapter and of the linears, without the LLM's; of the whole `state_dict` where it is given."""
        state_dict = self.state_dict() if state_dict is None else state_dict
        return {name: value for name, value in state_dict.items() if not name.startswith("llm.")}

    def identity(self) -> dict:
        """What the saved weights belong to: JSON values."""
        return {
            "base": self._base,
            "adapter": type(self.adapter).__name__,
            "settings": getattr(self.adapter, "settings", None),
            "inject": self.inject,
        }

    def save_pretrained(self, folder: str | os.PathLike, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write adapter.safetensors (adapter and linears) and adapter.json (`identity`), not the LLM.

        Under ZeRO-3 and FSDP the caller's gathered `state_dict` holds the weights.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / WEIGHTS_FILE, checksum=False) as temporary:
            weights = self.trained_state(state_dict)
            save_file({name: value.cpu().contiguous() for name, value in weights.items()}, temporary)
        with replacing(folder / IDENTITY_FILE, checksum=False) as temporary:
            temporary.write_text(json.dumps(self.identity(), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike, llm: PreTrainedModel, adapter: nn.Module) -> "InjectedLLM":
        """Read what `save_pretrained` wrote, into an adapter built like the one that was saved.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: it was saved with another base or another adapter.
        """
        model = cls(llm, adapter, inject=_read_identity(folder)["inject"])
        model.load_weights(folder)
        return model

    def load_weights(self, folder: str | os.PathLike) -> None:
        """Read saved weights into this model; raises as `load` does."""
        saved, own = _read_identity(folder), json.loads(json.dumps(self.identity()))
        path = Path(folder) / IDENTITY_FILE
        for name in (key for key in own["base"] if key != "name"):  # a folder's name says nothing of what is in it
            if saved["base"].get(name) != own["base"][name]:
                raise ValueError(
                    f"{path} was saved on the base model {saved['base']['name']!r} with {name} "
                    f"{saved['base'].get(name)}, but {own['base']['name']!r} has {own['base'][name]}: load the base "
                    "that the adapter was trained on."
                )
        weights = read_tensors(Path(folder) / WEIGHTS_FILE)
        saved, own = ({**each, **_shapes(state)} for each, state in ((saved, weights), (own, self.trained_state())))
        for name in sorted((saved.keys() | own.keys()) - {"base"}):
            if saved.get(name) != own.get(name):
                raise ValueError(
                    f"{path} was saved with {name} {saved.get(name)}, but the model has {own.get(name)}: build the "
                    "adapter as it was trained."
                )
        self.load_state_dict(weights, strict=False)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | list[dict]], placeholder_id: int
) -> list[list[int]]:
    """Token ids of each prompt, with `placeholder_id` for each `PLACEHOLDER`.

    The texts around placeholders are tokenized apart; control-token spellings inside them stay text. A prompt that is
    a conversation of one message stands in the tokenizer's chat template.

    Raises:
        ValueError: a conversation, and no chat template.
    """
    chat = bool(prompts) and not isinstance(prompts[0], str)
    before, after = _chat_frame(tokenizer) if chat else ([], [])
    pieces = [(prompt[0]["content"] if chat else prompt).split(PLACEHOLDER) for prompt in prompts]
    options = {"split_special_tokens": True}
    first = tokenizer([each[0] for each in pieces], add_special_tokens=not chat, **options)["input_ids"]
    later = [piece for each in pieces for piece in each[1:]]
    encoded = iter(tokenizer(later, add_special_tokens=False, **options)["input_ids"] if later else ())
    ids = []
    for start, each in zip(first, pieces, strict=True):
        ids.append(before + start + [token for _ in each[1:] for token in (placeholder_id, *next(encoded))] + after)
    return ids


def _chat_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the chat template puts before and behind a user's message."""
    if tokenizer.chat_template is None:
        raise ValueError(
            f"The tokenizer of {tokenizer.name_or_path!r} has no chat template, but the prompts are conversational; "
            "set --conversational false, or choose a chat model."
        )
    mark = "\ue000"  # of a private use area: no template has it
    message = [{"role": "user", "content": mark}]
    parts = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True).split(mark)
    return tuple(tokenizer(part, add_special_tokens=False)["input_ids"] for part in (parts[0], parts[-1]))


def fingerprint(llm: PreTrainedModel) -> dict:
    """Name and sizes of a base model, and a hash of a few of its weights: JSON values.

    The hash is of 16 rows or more of each of the first and last eight matrices, rounded to bfloat16, so that it does
    not depend on the precision in which the base is loaded. A base that is quantized is another one.
    """
    matrices = [parameter.detach() for parameter in llm.parameters() if parameter.dim() == 2]
    digest = hashlib.sha256()
    for matrix in matrices[:8] + matrices[-8:]:
        rows = matrix[:: max(1, len(matrix) // 16)]
        digest.update(rows.to(torch.bfloat16).float().cpu().contiguous().numpy().tobytes())
    sizes = {name: getattr(llm.config, name, None) for name in SIZES}
    return {"name": llm.config.name_or_path, **sizes, "weights_sha256": digest.hexdigest()}


def _mean_over_heads(config, width: int) -> nn.Linear:
    """H -> `width` without bias: each head's part is the mean of the parts of the sum that lie where it lies."""
    hidden = config.hidden_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    part = math.gcd(hidden, head)
    linear = nn.Linear(hidden, width, bias=False)
    heads = torch.eye(hidden).view(hidden // part, part, hidden).permute(1, 2, 0)
    pooled = F.adaptive_avg_pool1d(heads, width // part).permute(2, 0, 1)
    linear.weight.data = pooled.reshape(width, hidden).contiguous()
    return linear


def _shapes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {f"shape of {name}": list(value.shape) for name, value in state.items()}


def _read_identity(folder: str | os.PathLike) -> dict:
    path = Path(folder) / IDENTITY_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} holds no adapter.")
    return read_json(path)
