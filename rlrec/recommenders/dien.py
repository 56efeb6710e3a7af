"""DIEN: a GRU finds the interests behind the history, a second one follows those that the target is about.

Paper: Zhou et al., "Deep Interest Evolution Network for Click-Through Rate Prediction" (AAAI 2019): the interest
extractor layer (a GRU, eqs. 2 to 5, with the auxiliary loss, eqs. 6 and 7) and the interest evolving layer (attention
to the target, and the GRU with attentional update gate, AUGRU).

Departures, beside the rulings of `sequence_recommender`:

1. The auxiliary loss is the mean over the pairs of neighbours in the histories of a batch, where eq. 6 sums over the
   history: its weight then does not depend on the histories' lengths. The negative of a pair is a random other item,
   and the vectors compared with the state are those of the items without reactions, which a negative has none of.
2. The loss's weight alpha is 0.2 by default, as in torch-rechub; the paper names none.
3. The MLP has ReLU and, as in `DIN`, no Dice.
"""

import torch
import torch.nn.functional as F
from torch import nn

from rlrec.recommenders.base import Batch
from rlrec.recommenders.gru import GRU
from rlrec.recommenders.sequence_recommender import SequenceRecommender


class DIEN(SequenceRecommender):
    """Zhou et al.'s model.

    Args:
        auxiliary_weight: alpha, of the auxiliary loss in training; 0 leaves it out.
        the others: as in `SequenceRecommender`.

    >>> model = DIEN(num_users=3, num_items=5)
    >>> batch = {"user": torch.tensor([1]), "item": torch.tensor([4])}
    >>> model({**batch, "history": torch.tensor([[2, 3]]), "history_labels": torch.tensor([[1.0, 0.0]])}).shape
    torch.Size([1])
    """

    def __init__(self, num_users: int, num_items: int, *sizes: int, auxiliary_weight: float = 0.2, **common):
        super().__init__(num_users, num_items, *sizes, **common)
        self.config["auxiliary_weight"] = auxiliary_weight
        dim = self.embedding_dim
        self.extractor = GRU(dim)
        self.attention = nn.Linear(dim, dim, bias=False)  # W of h W e_a
        self.evolution = GRU(dim)

    def represent(self, x: torch.Tensor, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The interests that the GRU finds, followed by the AUGRU."""
        return self.evolve(self.extractor(x), given, target)

    def evolve(self, interests: torch.Tensor, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Interests (B, L, d), each by softmax(h W e_a) what the target is about, -> the AUGRU's last state (B, d)."""
        scores = torch.bmm(interests, self.attention(target).unsqueeze(-1)).squeeze(-1)
        attention = scores.masked_fill(~given, torch.finfo(scores.dtype).min).softmax(-1)
        return self.evolution(interests, attention * given)[:, -1]  # an empty history has no attention to give

    def loss(self, batch: Batch, explanations: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
        """The loss of the target plus the auxiliary one (eq. 7)."""
        weight = self.config["auxiliary_weight"]
        if not weight:
            return super().loss(batch, explanations, labels)
        history, x, fields = self.embed(batch)
        interests = self.extractor(x)
        outputs = self.outputs(fields, self.evolve(interests, history != 0, fields[:, 1]), explanations)
        return self.target_loss(outputs, labels) + weight * self.auxiliary_loss(interests, history)

    def auxiliary_loss(self, interests: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        """Eq. 6: whether interest t (B, L, d) tells item t + 1 of the history (B, L) from a random other one."""
        follows = history[:, 1:] != 0  # histories stand at the left, so what comes before is there too
        states, items = interests[:, :-1][follows], history[:, 1:][follows]  # (pairs, d), (pairs,)
        num_items = self.config["num_items"]
        if not len(items) or num_items < 3:  # no pair, or no other item
            return interests.new_zeros(())
        others = torch.randint(1, num_items - 1, items.shape, device=items.device)
        others = others + (others >= items)  # any known item but the one that came
        right, wrong = (states * self.item_vectors(torch.stack((items, others)))).sum(-1)
        return (F.softplus(-right) + F.softplus(wrong)).mean()  # -log sigmoid(right) - log(1 - sigmoid(wrong))
