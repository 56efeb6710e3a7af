"""DIN: the history's items weighted by what they have to do with the target.

Paper: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction" (KDD 2018), eq. 3: the representation is
the sum of the history's vectors, each times a(x, v), the activation unit of figure 2. RecPIE's Table 2 has it too.

Departures, beside the rulings of `sequence_recommender`:

1. The unit's hidden layer reads x, v, x * v and, in the published code, v - x. A linear map of x and v holds that of
   their difference already, so it is left out here: the same functions, with less work. The product is the
   element-wise one of that code; the paper speaks of an "out product".
2. The activation is PReLU, with which the paper has results beside those with Dice: Dice needs statistics of the
   mini-batch, by which a row's output depends on other rows. Mini-batch aware regularisation (section 5.1), a cheap L2
   penalty for very large tables, is left out.
3. As in the paper, the weights are not normalised over the history.
"""

import torch
from torch import nn

from rlrec.recommenders.sequence_recommender import SequenceRecommender


class ActivationUnit(nn.Module):
    """a(x, v) of eq. 3.

    Args:
        dim: size of the vectors.
        hidden: width of the hidden layer.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.history = nn.Linear(2 * dim, hidden)
        self.target = nn.Linear(dim, hidden, bias=False)
        self.activation = nn.PReLU()
        self.output = nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """History vectors (B, L, d) and target vectors (B, d) -> weights (B, L)."""
        pairs = torch.cat((x, x * target.unsqueeze(1)), dim=-1)  # (B, L, 2 d)
        hidden = self.history(pairs) + self.target(target).unsqueeze(1)
        return self.output(self.activation(hidden)).squeeze(-1)


class DIN(SequenceRecommender):
    """Zhou et al.'s model. It does not know the order of the history, nor does the paper's.

    Args:
        attention_dim: width of the activation unit's hidden layer (paper: 36).
        the others: as in `SequenceRecommender`.

    >>> model = DIN(num_users=3, num_items=5)
    >>> batch = {"user": torch.tensor([1]), "item": torch.tensor([4])}
    >>> model({**batch, "history": torch.tensor([[2, 3]]), "history_labels": torch.tensor([[1.0, 0.0]])}).shape
    torch.Size([1])
    """

    def __init__(self, num_users: int, num_items: int, *sizes: int, attention_dim: int = 36, **common):
        super().__init__(num_users, num_items, *sizes, **common)
        self.config["attention_dim"] = attention_dim
        self.activation_unit = ActivationUnit(self.embedding_dim, attention_dim)

    def represent(self, x: torch.Tensor, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Eq. 3; padding adds nothing because its vectors are zero."""
        weights = self.activation_unit(x, target)
        return torch.bmm(weights.unsqueeze(1), x).squeeze(1)
