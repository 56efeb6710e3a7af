"""Frozen text encoders: one vector per text, z = the masked mean of the last hidden layer.

Paper: Yu et al., "Explainable CTR Prediction via LLM Reasoning" (ExpCTR, WSDM 2025), equation 11.

Departures:

1. "MeanPooling" is taken as the mean over the tokens that are not padding, so a text's vector does not depend on the
   texts it shares a batch with.
2. Next to BERT-like encoders (BGE-small in the paper) the policy's own base model can be the encoder, its adapter
   switched off: the embedded default needs no second model.
3. A text that has no token at all gets the zero vector, which is what "without explanation" means in equation 13.
"""

import hashlib
import json
import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlrec.files import read_tensors

HASH_BYTES = 16
SHARD_ROWS = 4096
SAMPLED_VALUES = 65_536


@contextmanager
def frozen_base(model: torch.nn.Module) -> Iterator[PreTrainedModel]:
    """Lends the frozen base of a model: every adapter off, eval mode, no gradients; all as it was found afterwards.

    Takes a `PeftModel`, or a plain transformers model; also a plain one that was given LoRA layers later on, as TRL's
    trainers do with `peft_config`. The weights are shared, never copied.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    modes = [(module, module.training) for module in base.modules()]
    adapters = [m for m in base.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    active = [adapter for adapter in adapters if not adapter.disable_adapters]
    # switching a PEFT layer off and on again also rewrites requires_grad, for frozen adapters too
    gradients = [(p, p.requires_grad) for adapter in active for p in adapter.parameters()]
    try:
        for adapter in active:
            adapter.enable_adapters(False)
        base.eval()
        with torch.no_grad():
            yield base
    finally:
        for adapter in active:
            adapter.enable_adapters(True)
        for parameter, requires_grad in gradients:
            parameter.requires_grad_(requires_grad)
        for module, training in modes:
            module.training = training


def require_frozen(model: torch.nn.Module, role: str) -> None:
    """Raises ValueError where the base weights of `model` could be trained while it serves as a frozen `role`."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    has_adapters = any(isinstance(module, BaseTunerLayer) for module in base.modules())
    if not has_adapters and any(parameter.requires_grad for parameter in base.parameters()):
        raise ValueError(
            f"The {role} must not change while the policy is trained: pass a PEFT model (its base is frozen), or a "
            "separate copy of the model after copy.requires_grad_(False)."
        )


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that are data: control tokens written in them ("</s>", "<|eot_id|>") do not act.

    The special tokens that the tokenizer itself adds (BOS, [CLS] ...) stay.
    """
    encoded = tokenizer(
        list(texts), split_special_tokens=True, return_special_tokens_mask=True, return_attention_mask=False
    )
    # a word-level vocabulary may hold "</s>" as an ordinary word, which splitting does not take apart
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return [
        [i for i, added in zip(ids, mask) if added or i not in control]
        for ids, mask in zip(encoded["input_ids"], encoded["special_tokens_mask"])
    ]


class TextEncoder:
    """Texts to vectors with a frozen transformer: `encode(texts) -> (N, d)`.

    Args:
        model: a transformers encoder (AutoModel), or a causal LM or PeftModel (then its base's last hidden layer, with
            the adapter off). A plain model must be frozen: `model.requires_grad_(False)`.
        tokenizer: its tokenizer.
        batch_size: texts per forward pass; texts of similar length share one.
        max_length: tokens kept of a text (512: BERT's and BGE's limit); the rest is cut, counted in `truncated`, and
            said once. Never more than the model has positions for.
        cache_dir: folder for a cache on disk, or None. Vectors are kept per fingerprint of model and tokenizer, in
            shards of their own for each process, so that several processes can share one folder.
        words_only: take the input embeddings instead of the last hidden layer: a bag of words. A small causal LM keeps
            in its last layer what it needs for the next word, which is not what the text says.

    Raises:
        ValueError: a plain model that is not frozen.

    Example:
        >>> import torch
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
        >>> words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "film": 3}, unk_token="[UNK]"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
        >>> config = BertConfig(vocab_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        ...                     intermediate_size=8)
        >>> encoder = TextEncoder(BertModel(config).requires_grad_(False), tokenizer)
        >>> encoder.encode(["good film", "film"]).shape, encoder.dimension
        (torch.Size([2, 8]), 8)
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 64,
        max_length: int = 512,
        cache_dir: str | os.PathLike | None = None,
        words_only: bool = False,
    ):
        require_frozen(model, "text encoder")
        config = model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None) or max_length
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.max_length = batch_size, min(max_length, positions)
        self.dimension: int = config.hidden_size
        self.words_only = words_only
        self.truncated = 0
        self._cache = None if cache_dir is None else EmbeddingCache(Path(cache_dir) / self.fingerprint())

    @classmethod
    def from_pretrained(cls, name_or_path: str, *, revision: str | None = None, device: str = "cpu", **options):
        """Any Hugging Face encoder by name or local path, frozen; `options` go to the constructor.

        Of an encoder-decoder model (Sentence-T5) the encoder is taken.
        """
        tokenizer, config, model = (
            kind.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
            for kind in (AutoTokenizer, AutoConfig, AutoModel)
        )
        model = model.get_encoder() if config.is_encoder_decoder else model
        return cls(model.requires_grad_(False).eval().to(device), tokenizer, **options)

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """(N, d) float32 on the CPU; equal texts are encoded once.

        Where the model's weights are split over processes (ZeRO-3, FSDP) all of them must call this with as many
        different new texts, since every forward pass is a joint one.
        """
        unique = list(dict.fromkeys(texts))
        keys = [_digest(text.encode("utf-8", "surrogatepass")) for text in unique]
        vectors: dict[bytes, torch.Tensor] = self._cache.lookup(keys) if self._cache else {}
        missing = [(key, text) for key, text in zip(keys, unique) if key not in vectors]
        if missing:
            new = dict(zip([key for key, _ in missing], self._forward([text for _, text in missing])))
            vectors = vectors | new
            if self._cache:
                self._cache.add(new)
        by_text = {text: vectors[key] for key, text in zip(keys, unique)}
        return torch.stack([by_text[text] for text in texts]) if texts else torch.zeros(0, self.dimension)

    def _forward(self, texts: list[str]) -> torch.Tensor:
        ids = token_ids(self.tokenizer, texts)
        cut = sum(len(row) > self.max_length for row in ids)
        if cut and not self.truncated:
            warnings.warn(
                f"{cut} of {len(texts)} texts are longer than {self.max_length} tokens and were cut for the encoder "
                "(said once; `truncated` counts them).",
                stacklevel=3,
            )
        self.truncated += cut
        out = torch.zeros(len(ids), self.dimension)
        order = sorted((i for i, row in enumerate(ids) if row), key=lambda i: len(ids[i]))
        with frozen_base(self.model) as base:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                input_ids, mask = _pad_right([ids[i][: self.max_length] for i in rows], self.tokenizer.pad_token_id)
                input_ids, mask = input_ids.to(base.device), mask.to(base.device)
                if self.words_only:
                    hidden = base.get_input_embeddings()(input_ids)  # (B, T, H)
                else:
                    hidden = base.base_model(input_ids=input_ids, attention_mask=mask).last_hidden_state
                out[rows] = masked_mean(hidden.float(), mask).cpu()
        return out

    def fingerprint(self) -> str:
        """Hex digest of config, weights, tokenizer and `max_length`: the name of this encoder's cache folder.

        Of a weight with more than 65,536 values an evenly spaced sample of as many is hashed. Adapter weights are
        left out, so a policy has the same fingerprint before and after LoRA is put on it, and while it is trained.
        """
        digest = hashlib.blake2b(digest_size=HASH_BYTES)
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        backbone = base.base_model
        config = {key: value for key, value in base.config.to_dict().items() if not key.startswith("_")}
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        adapter_parts = {
            part for m in backbone.modules() if isinstance(m, BaseTunerLayer) for part in m.adapter_layer_names
        }
        for name, value in sorted(
            (name.replace(".base_layer", ""), value)
            for name, value in backbone.state_dict().items()
            if not adapter_parts & set(name.split("."))
        ):
            stride = -(-value.numel() // SAMPLED_VALUES)
            sample = value.detach().reshape(-1)[:: max(stride, 1)].float().cpu().numpy()
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode() + sample.tobytes())
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for state in ("truncation", "padding"):  # left over from the last call, not part of what the tokenizer is
            tokenizer.pop(state, None)
        digest.update(json.dumps([tokenizer, self.max_length, self.words_only], sort_keys=True).encode())
        return digest.hexdigest()


def masked_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Equation 11. (B, T, H) hidden states and (B, T) mask -> (B, H) mean over the positions where mask is 1.

    >>> masked_mean(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2., 3.]])
    """
    mask = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


class EmbeddingCache:
    """Vectors by text hash in a folder of safetensors shards.

    Each process writes shards under names of its own and replaces them atomically, so any number of processes may
    read and write one folder; a text that two of them encode at the same time is merely stored twice.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._vectors: dict[bytes, torch.Tensor] = {}
        self._read: set[tuple[str, int, int]] = set()
        self._shard: dict[bytes, torch.Tensor] = {}
        self._shard_name = f"{uuid.uuid4().hex}.safetensors"

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, torch.Tensor]:
        """The vectors known for `keys`; reads what other processes have added since the last call."""
        if not all(key in self._vectors for key in keys):
            self._refresh()
        return {key: self._vectors[key] for key in keys if key in self._vectors}

    def add(self, vectors: dict[bytes, torch.Tensor]) -> None:
        """Keeps (d,) vectors and writes this process's current shard anew; a full shard is followed by the next."""
        self._vectors.update(vectors)
        self._shard.update(vectors)
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = torch.from_numpy(np.frombuffer(b"".join(self._shard), dtype=np.uint8).reshape(-1, HASH_BYTES).copy())
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".tmp")
        os.close(handle)
        save_file({"keys": keys, "vectors": torch.stack(list(self._shard.values()))}, temporary)
        os.replace(temporary, self.folder / self._shard_name)
        if len(self._shard) >= SHARD_ROWS:
            self._shard, self._shard_name = {}, f"{uuid.uuid4().hex}.safetensors"

    def _refresh(self) -> None:
        for path in sorted(self.folder.glob("*.safetensors")):
            status = path.stat()
            state = (path.name, status.st_mtime_ns, status.st_size)
            if state not in self._read:
                tensors = read_tensors(path)
                keys = tensors["keys"].numpy()
                self._vectors.update({key.tobytes(): vector for key, vector in zip(keys, tensors["vectors"])})
                self._read.add(state)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def _pad_right(rows: list[list[int]], pad: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of ids -> (B, T) ids and (B, T) mask. Padding is masked out, so a tokenizer without one may use any id."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad or 0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask
