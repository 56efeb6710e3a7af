"""PETER: a small Transformer that writes an explanation after the ids of a user and an item, trained from scratch.

Paper: Li, Zhang and Chen, "Personalized Transformer for Explainable Recommendation" (ACL 2021). The input is
[user, item, <s>, words]; words see what stands before them, and user and item see each other (PETER's mask). The loss
is that of the words, and the context-prediction loss: every word of the explanation from the item's position alone.
Departures:

1. Written from what SELLER and later papers say of it; sizes are for small data (paper: 512 wide, 2 heads, plain SGD).
2. Its third loss, of the rating, is left out: nothing here reads it. PETER+'s feature words are not given.
3. The SELLER paper calls PETER a fine-tuned pre-trained language model; as published it is trained from scratch.
4. Explanations end at </s> or after as many words as the longest training explanation has; decoding is greedy.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from rlrec.policies.tiny import build_tokenizer
from rlrec.recommenders.base import Vocabulary
from rlrec.recommenders.fitting import torch_threads

PAD, BOS, EOS = 0, 1, 2  # of `build_tokenizer`
LARGEST_VOCABULARY = 20_000  # words, the most frequent (paper)
LONGEST = 128  # words of an explanation
WORD = re.compile(r'"[^"]*"|[^\s",.<>]+|[,.<>"]')  # what `build_tokenizer` takes for a word


class PETER(nn.Module):
    """Words from user, item and the words before.

    Args:
        num_users, num_items: sizes of the tables, row 0 for unknown ones.
        vocab_size: words.
        max_length: words of an explanation, <s> included.
        dim, layers, heads, dropout: of the Transformer, four times as wide inside.

    >>> model = PETER(num_users=3, num_items=4, vocab_size=10, max_length=5)
    >>> ids = torch.tensor([1, 2])
    >>> words, context = model(ids, ids, torch.ones(2, 5, dtype=torch.long))
    >>> words.shape, context.shape
    (torch.Size([2, 5, 10]), torch.Size([2, 10]))
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        vocab_size: int,
        max_length: int,
        dim: int = 64,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.2,
    ):
        super().__init__()
        self.users, self.items = nn.Embedding(num_users, dim), nn.Embedding(num_items, dim)
        self.words, self.positions = nn.Embedding(vocab_size, dim), nn.Embedding(max_length + 2, dim)
        layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(dim, vocab_size)
        self.dropout = nn.Dropout(dropout)
        for table in (self.users, self.items, self.words, self.positions):
            nn.init.normal_(table.weight, std=0.1)
        unseen = torch.ones(max_length + 2, max_length + 2, dtype=torch.bool).triu(1)
        unseen[0, 1] = False  # the user sees the item
        self.register_buffer("unseen", unseen)

    def states(self, user: Tensor, item: Tensor, words: Tensor) -> Tensor:
        """States (B, L + 2, dim) of user, item and `words` (B, L)."""
        length = words.shape[1] + 2
        x = torch.cat([self.users(user)[:, None], self.items(item)[:, None], self.words(words)], dim=1)
        x = self.dropout(x * math.sqrt(x.shape[-1]) + self.positions.weight[:length])
        return self.encoder(x, mask=self.unseen[:length, :length])

    def forward(self, user: Tensor, item: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the word after each of `words` (B, L), which begin with <s>: (B, L, V); of any word: (B, V)."""
        return self._logits(self.states(user, item, words))

    def _logits(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(states[:, 2:]), self.head(states[:, 1])

    def loss(self, user: Tensor, item: Tensor, words: Tensor, context_weight: float) -> Tensor:
        """The words' mean cross entropy, and `context_weight` times that of the same words from the item's position.

        Args:
            words: (B, L), <s> ... </s>, padded at the end.
        """
        return self.text_loss(self.states(user, item, words[:, :-1]), words, context_weight)

    def text_loss(self, states: Tensor, words: Tensor, context_weight: float) -> Tensor:
        """`loss` from the states of user, item and all words but the last."""
        logits, context = self._logits(states)
        targets = words[:, 1:]
        loss = F.cross_entropy(logits[targets != PAD], targets[targets != PAD])
        inner = (targets != PAD) & (targets != EOS)
        told = context.log_softmax(-1).gather(1, targets)
        return loss - context_weight * told[inner].mean()

    @torch.no_grad()
    def write(self, user: Tensor, item: Tensor, max_length: int) -> Tensor:
        """Greedy words (B, up to max_length) after <s>; what follows a </s> means nothing."""
        words = torch.full((len(user), 1), BOS, device=user.device)
        ended = torch.zeros(len(user), dtype=torch.bool, device=user.device)
        while words.shape[1] <= max_length and not ended.all():
            logits, _ = self(user, item, words)
            words = torch.cat([words, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
            ended |= words[:, -1] == EOS
        return words[:, 1:]


def peter_explanations(
    training: pl.DataFrame,
    explanations: Sequence[str],
    samples: pl.DataFrame,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    context_weight: float = 1.0,
    dim: int = 64,
    layers: int = 2,
    heads: int = 2,
    dropout: float = 0.2,
    seed: int = 0,
    device: str | torch.device = "cpu",
    cpu_threads: int | None = 1,
    progress: bool = True,
) -> list[str]:
    """Train PETER on `explanations` of the `training` samples, and write one for each of `samples`.

    Args:
        training, samples: user_id and item_id; whom training does not have is row 0, an ordinary untrained user.
        context_weight: of the context-prediction loss (paper: 1).

    Raises:
        ValueError: no training sample.
    """
    vocabulary = Vocabulary.from_samples(training, use_categories=False)
    counts = Counter(word for text in explanations for word in WORD.findall(text))
    tokenizer = build_tokenizer([], [word for word, _ in counts.most_common(LARGEST_VOCABULARY)])
    encoded = [[*ids[: LONGEST + 1], EOS] for ids in tokenizer(list(explanations))["input_ids"]]
    longest = max(map(len, encoded))
    words = torch.tensor([ids + [PAD] * (longest - len(ids)) for ids in encoded], device=device)
    user, item = _ids(vocabulary, training, device)
    sizes = vocabulary.sizes()
    forked = torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else [])
    with forked, torch_threads(cpu_threads):
        torch.manual_seed(seed)
        model = PETER(sizes["num_users"], sizes["num_items"], len(tokenizer), longest, dim, layers, heads, dropout).to(
            device
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        for _ in tqdm(range(epochs), desc="Training PETER", disable=not progress):
            for rows in torch.randperm(len(words), device=device).split(batch_size):
                loss = model.loss(user[rows], item[rows], words[rows], context_weight)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        model.eval()
        texts = []
        for users, items in zip(*(ids.split(1024) for ids in _ids(vocabulary, samples, device))):
            for ids in model.write(users, items, longest - 1).tolist():
                ids = ids[: ids.index(EOS)] if EOS in ids else ids
                texts.append(tokenizer.decode(ids, skip_special_tokens=True))
    return texts


def _ids(vocabulary: Vocabulary, samples: pl.DataFrame, device) -> tuple[Tensor, Tensor]:
    batch = vocabulary.encode(samples.select("user_id", "item_id"))
    return batch["user"].to(device), batch["item"].to(device)
