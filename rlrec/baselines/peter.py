"""PETER as a recommender: the rating that it predicts beside the words, a row of RecPIE's Table 2.

Paper: Li, Zhang and Chen, "Personalized Transformer for Explainable Recommendation" (ACL 2021), section 4: the state
of the user's position, which sees the item, gives the rating by a hidden layer with a sigmoid; the three losses are
summed: words 1.0, context 1.0, rating 0.1. Departures, beside those of `rlrec.seller.peter`:

1. Adam and the grid of the other rows, where the paper has plain SGD with a decaying rate; stopped early by the
   validation split's RMSE, and not by the sum of the losses.
2. Texts are cut to 15 words, as the paper cuts its explanations.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlrec.baselines.tuning import Fitted
from rlrec.policies.tiny import build_tokenizer
from rlrec.recommenders.base import Vocabulary
from rlrec.recommenders.fitting import EarlyStopping, FitResult, check_ratings, torch_threads
from rlrec.seller.peter import EOS, LARGEST_VOCABULARY, PAD, PETER, WORD

LONGEST = 15  # words of a text
RATING_WEIGHT = 0.1


class RatingPETER(PETER):
    """PETER with its rating loss.

    >>> model = RatingPETER(num_users=3, num_items=4, vocab_size=10, max_length=5).eval()
    >>> ids = torch.tensor([1, 2])
    >>> model.rate(ids, ids).shape
    torch.Size([2])
    """

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        dim = self.head.in_features
        self.rating = nn.Sequential(nn.Linear(dim, dim), nn.Sigmoid(), nn.Linear(dim, 1))

    def rate(self, user: Tensor, item: Tensor) -> Tensor:
        """Scaled ratings (B,): the first state sees user and item alone, whatever words come after."""
        no_words = user.new_zeros(len(user), 0)
        return self.rating(self.states(user, item, no_words)[:, 0]).squeeze(1)

    def joint_loss(self, user: Tensor, item: Tensor, words: Tensor, ratings: Tensor) -> Tensor:
        """The three losses' sum; words (B, L) as in `PETER.loss`."""
        states = self.states(user, item, words[:, :-1])
        rating_loss = F.mse_loss(self.rating(states[:, 0]).squeeze(1), ratings)
        return self.text_loss(states, words, context_weight=1.0) + RATING_WEIGHT * rating_loss


@dataclass
class PETERData:
    """Tensors by split: user, item and rating; of the training split words (N, L) too."""

    sizes: tuple[int, int, int, int]  # users, items, words, longest text
    words: Tensor
    splits: dict[str, tuple[Tensor, Tensor, Tensor]]


def peter_data(texts: Sequence[str], samples: Mapping[str, pl.DataFrame], target: str = "target") -> PETERData:
    """What `fit_peter` reads.

    Args:
        texts: of the training samples, none of them empty.
        samples: "train", "validation" and "test": user_id, item_id and `target`, the rating scaled to [0, 1].
    """
    vocabulary = Vocabulary.from_samples(samples["train"], use_categories=False)
    counts = Counter(word for text in texts for word in WORD.findall(text))
    tokenizer = build_tokenizer([], [word for word, _ in counts.most_common(LARGEST_VOCABULARY)])
    encoded = [[*ids[: LONGEST + 1], EOS] for ids in tokenizer(list(texts))["input_ids"]]
    longest = max(map(len, encoded))
    words = torch.tensor([ids + [PAD] * (longest - len(ids)) for ids in encoded])
    splits = {}
    for split, part in samples.items():
        batch, ratings = vocabulary.encode(part.select("user_id", "item_id")), part[target].to_torch().float()
        check_ratings(ratings, len(part), split)
        splits[split] = batch["user"], batch["item"], ratings
    sizes = vocabulary.sizes()
    return PETERData((sizes["num_users"], sizes["num_items"], len(tokenizer), longest), words, splits)


def fit_peter(
    data: PETERData,
    *,
    seed: int,
    learning_rate: float,
    weight_decay: float,
    epochs: int = 50,
    patience: int = 5,
    batch_size: int = 128,
    cpu_threads: int | None = 1,
    **sizes,
) -> Fitted:
    """Train PETER on words and ratings; the test ratings of the epoch with the least validation RMSE.

    Args:
        sizes: dim, layers, heads and dropout of `PETER`.
    """
    user, item, ratings = data.splits["train"]
    result, stopping = FitResult(), EarlyStopping(patience)
    with torch.random.fork_rng(devices=[]), torch_threads(cpu_threads):
        torch.manual_seed(seed)
        model = RatingPETER(*data.sizes, **sizes)
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
        for epoch in range(1, epochs + 1):
            model.train()
            for rows in torch.randperm(len(user)).split(batch_size):
                loss = model.joint_loss(user[rows], item[rows], data.words[rows], ratings[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            model.eval()
            predicted, true = _rate(model, *data.splits["validation"][:2]), data.splits["validation"][2]
            if stopping.after(epoch, -float(F.mse_loss(predicted, true).sqrt()), model):
                break
        stopping.restore(model, result)
        model.eval()
        return Fitted(-stopping.best_score, result.best_epoch, _rate(model, *data.splits["test"][:2]).numpy())


@torch.no_grad()
def _rate(model: RatingPETER, user: Tensor, item: Tensor, rows: int = 4096) -> Tensor:
    return torch.cat([model.rate(*part) for part in zip(user.split(rows), item.split(rows))])
