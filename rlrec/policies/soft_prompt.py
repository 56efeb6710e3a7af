"""The soft prompt: one input vector per consumer in front of the prompt, shared with the recommender.

Paper: RecPIE, sections 3.4.1 and 3.5: X = e_i (+) E(prompt), where e_i is row i of the recommender's consumer table
E_c and E the LLM's tokenizer. Section 3.6: E_c belongs to the recommender and is fixed while PPO trains the LLM.

Each consumer is one token behind the vocabulary: id V + i is looked up in proj(E_c), every id below V as before. Only
the class of the model's input embedding changes, so that its parameters, state dict, saved files, tied LM head and
output vocabulary (V) are those of the plain model. (A module around the embedding would rename its weight, which
`from_pretrained` would then re-initialise without a word.) No text spells these tokens: ids are put in front of a
tokenized prompt, so an item titled "<consumer_3>" stays text.

Departures, and rulings where the paper is silent:
1. e_i has 8 dimensions and the LLM's input H; the paper does not say how one becomes the other. Here by a linear map
   without bias, drawn from a seed: orthogonal columns of equal length, so that distances and angles between consumers
   stay those of E_c up to one factor, which gives the average consumer the length of a median token embedding.
2. Nothing in Algorithm 1 gives that map a gradient: the recommender's loss reaches E_c directly and the LLM only
   through sampled text. So it stays as drawn, is saved, and kept over all rounds. A loss on the LLM's output reaches
   it after `soft_prompt.projection.requires_grad_(True)`, if it is given to an optimizer.
3. E_c is detached here: it learns from the recommender's loss alone, also where another loss passes through the LLM.
4. It stands before everything, BOS included, as the formula is printed.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlrec.files import read_json, read_tensors, replacing

WEIGHTS_FILE = "soft_prompt.safetensors"
IDENTITY_FILE = "soft_prompt.json"


class SoftPrompt(nn.Module):
    """One token per consumer: id `vocab_size` + i stands for proj(e_i), i = 0 for consumers that are not known.

    Args:
        consumer_table: E_c, (num_users, d), row 0 the unknown consumer; the recommender's own module, not a copy.
        users: the ids of rows 1, 2, ... (`Vocabulary.users`).
        vocab_size: rows of the LLM's input embedding, V.
        hidden_size: width of the LLM's input embedding, H.
        norm: length that a row of `consumer_table` of average (root mean square) length has after the projection.
        seed: of the projection.

    Raises:
        ValueError: the table does not have one row more than there are users, or only zeros.

    >>> table = nn.Embedding(3, 8)
    >>> soft_prompt = SoftPrompt(table, ["ann", "bob"], vocab_size=100, hidden_size=16)
    >>> soft_prompt.prepend([[5, 6], [5]], ["bob", "ann"])
    [[102, 5, 6], [101, 5]]
    >>> soft_prompt(torch.tensor([102, 101])).shape
    torch.Size([2, 16])
    """

    def __init__(
        self,
        consumer_table: nn.Embedding,
        users: Sequence[str],
        vocab_size: int,
        hidden_size: int,
        norm: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        if consumer_table.num_embeddings != len(users) + 1:
            raise ValueError(
                f"The consumer table has {consumer_table.num_embeddings} rows for {len(users)} users: it needs one "
                "for each and row 0 for unknown ones, so give the users of the vocabulary that built the recommender."
            )
        self.consumer_table, self.users = consumer_table, list(users)
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.projection = nn.Linear(consumer_table.embedding_dim, hidden_size, bias=False)
        table = consumer_table.weight.detach()
        average = float(table.float().square().sum(1).mean().sqrt())
        if average == 0:
            raise ValueError("The consumer table holds only zeros: initialise or fit the recommender first.")
        draw = torch.randn(self.projection.weight.shape, generator=torch.Generator().manual_seed(seed))
        columns = torch.linalg.qr(draw).Q if hidden_size >= draw.shape[1] else draw / hidden_size**0.5
        self.projection.weight.data = (columns * norm / average).to(table.device)
        self.projection.requires_grad_(False)
        self._row = {user: row for row, user in enumerate(self.users, start=1)}
        self._told = False

    @classmethod
    @torch.no_grad()
    def for_model(cls, model, consumer_table: nn.Embedding, users: Sequence[str], seed: int = 0) -> "SoftPrompt":
        """The soft prompt for a causal LM (or PeftModel), as long as its median token embedding."""
        embedding = _input_embedding(_causal_lm(model))
        vocab_size = embedding.num_embeddings
        sample = torch.linspace(0, vocab_size - 1, min(vocab_size, 1024), device=embedding.weight.device).long()
        norm = float(embedding(sample).float().norm(dim=-1).median())  # its output: Gemma's embedding scales it
        return cls(consumer_table, users, vocab_size, embedding.embedding_dim, norm, seed)

    def forward(self, tokens: Tensor) -> Tensor:
        """proj(e_i) (N, H), float32, of consumer tokens (N,), ids V + i."""
        with torch.autocast(tokens.device.type, enabled=False):
            rows = (tokens - self.vocab_size).to(self.consumer_table.weight.device)
            vectors = self.consumer_table.weight.detach()[rows].float()
            return self.projection(vectors.to(self.projection.weight.device))

    def prepend(self, prompt_ids: Sequence[Sequence[int]], user_ids: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt after its consumer's token; warns, once, of consumers that are not known."""
        rows = [self._row.get(user, 0) for user in user_ids]
        if 0 in rows and not self._told:
            self._told = True
            warnings.warn(
                f"{rows.count(0)} of {len(rows)} consumers, such as {user_ids[rows.index(0)]!r}, are unknown to the "
                "soft prompt and get row 0 of its table (said once).",
                stacklevel=2,
            )
        return [[self.vocab_size + row, *ids] for row, ids in zip(rows, prompt_ids, strict=True)]

    def __deepcopy__(self, memo) -> "SoftPrompt":
        return self  # a copied model, such as a KL reference, shares its consumers with the recommender too

    # -- files --------------------------------------------------------------------------------------------------------
    def identity(self) -> dict:
        """What the soft prompt is made of: sizes and SHA-256 digests, JSON values."""
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "consumer_table_shape": list(self.consumer_table.weight.shape),
            "consumer_table_sha256": _digest(self.consumer_table.weight),
            "users_sha256": hashlib.sha256(json.dumps(self.users).encode()).hexdigest(),
            "projection_sha256": _digest(self.projection.weight),
        }

    def save(self, directory: str | os.PathLike) -> None:
        """Write soft_prompt.safetensors (the projection) and soft_prompt.json (`identity`).

        The consumer table is the recommender's and saved with it; the JSON says which one is needed.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with replacing(directory / WEIGHTS_FILE, checksum=False) as temporary:
            save_file({"projection.weight": self.projection.weight.detach().cpu().contiguous()}, temporary)
        with replacing(directory / IDENTITY_FILE, checksum=False) as temporary:
            temporary.write_text(json.dumps(self.identity(), indent=1), encoding="utf-8")

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike,
        consumer_table: nn.Embedding,
        users: Sequence[str],
        *,
        table_went_on: bool = False,
    ) -> "SoftPrompt":
        """Read what `save` wrote, on the consumer table it was saved with.

        Args:
            table_went_on: for the next round of alternating training, in which the recommender has trained the table
                further: accept other values, but not other users or another size.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: it was saved with another consumer table or other users, or the files do not belong together.
        """
        saved = _read_identity(directory)
        soft_prompt = cls(consumer_table, users, saved["vocab_size"], saved["hidden_size"])
        path = Path(directory) / WEIGHTS_FILE
        soft_prompt.projection.load_state_dict({"weight": read_tensors(path)["projection.weight"]})
        soft_prompt.check(directory, table_went_on=table_went_on)
        return soft_prompt

    def check(self, directory: str | os.PathLike, *, table_went_on: bool = False) -> None:
        """Raise ValueError unless the soft prompt saved in `directory` is this one (`table_went_on`: see `load`)."""
        saved, own = _read_identity(directory), self.identity()
        for name in own:
            if saved.get(name) != own[name] and not (table_went_on and name == "consumer_table_sha256"):
                raise ValueError(
                    f"{Path(directory) / IDENTITY_FILE} was saved with {name} {saved.get(name)}, but here it is "
                    f"{own[name]}: take the recommender, users and soft prompt of the same run and round."
                )


class ConsumerTokens:
    """Put before an nn.Embedding's own class: ids from V on are consumers."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, H)."""
        consumers = input_ids >= self.soft_prompt.vocab_size
        if not consumers.any():
            return super().forward(input_ids)
        embedded = super().forward(input_ids.masked_fill(consumers, 0))
        vectors = self.soft_prompt(input_ids[consumers]).to(device=embedded.device, dtype=embedded.dtype)
        return embedded.masked_scatter(consumers.unsqueeze(-1), vectors)


def attach_soft_prompt(model, soft_prompt: SoftPrompt):
    """Let a causal LM, or a PeftModel around one, read consumer tokens; returns the same model.

    Attach it last: after adapters, and after a change of the vocabulary. `model.soft_prompt` is the soft prompt, but
    no submodule: `parameters()`, `state_dict()`, `to()` and `save_pretrained` do not see it.

    Raises:
        ValueError: the input embedding has other sizes than the soft prompt was made for, or an adapter on it.
    """
    detach_soft_prompt(model)
    causal_lm = _causal_lm(model)
    embedding = _input_embedding(causal_lm)
    expected = soft_prompt.vocab_size, soft_prompt.hidden_size
    if (embedding.num_embeddings, embedding.embedding_dim) != expected:
        raise ValueError(
            f"The model's input embedding is {embedding.num_embeddings} x {embedding.embedding_dim}, but the soft "
            f"prompt was made for {expected[0]} x {expected[1]}: load the one that belongs to this model."
        )
    plain = type(embedding)
    embedding.__class__ = type(f"{plain.__name__}WithConsumers", (ConsumerTokens, plain), {})
    for module in (causal_lm, embedding):
        module.__dict__["soft_prompt"] = soft_prompt  # nn.Module's own way would make it a submodule
    return model


def detach_soft_prompt(model):
    """Make the model plain again, if it has a soft prompt; returns the same model."""
    causal_lm = _causal_lm(model)
    causal_lm.__dict__.pop("soft_prompt", None)
    embedding = causal_lm.get_input_embeddings()
    if isinstance(embedding, ConsumerTokens):
        embedding.__class__ = type(embedding).__bases__[1]
        del embedding.__dict__["soft_prompt"]
    return model


def soft_prompt_of(model) -> SoftPrompt | None:
    """The soft prompt attached to a causal LM or PeftModel, or None."""
    return getattr(_causal_lm(model), "soft_prompt", None)


def _causal_lm(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _input_embedding(causal_lm) -> nn.Embedding:
    embedding = causal_lm.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise ValueError(
            f"The model's input embedding is a {type(embedding).__name__}, which a soft prompt cannot extend: keep it "
            "out of the adapter's target_modules and modules_to_save."
        )
    return embedding


def _read_identity(directory: str | os.PathLike) -> Mapping:
    path = Path(directory) / IDENTITY_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {directory} holds no soft prompt.")
    return read_json(path)


def _digest(tensor: Tensor) -> str:
    """SHA-256 of the values as float32."""
    return hashlib.sha256(tensor.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
