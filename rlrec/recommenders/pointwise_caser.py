"""Caser for clicks and ratings: convolutions over the history as a picture of items by dimensions.

Paper: Tang and Wang, "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding" (WSDM 2018):
horizontal filters (eqs. 3 to 5), vertical filters (eqs. 6 to 8), fully connected layer (eqs. 9 and 10).

Departures, beside the rulings of `sequence_recommender`:

1. The user's vector, which eq. 10 joins to z, is an input of the MLP, as in all models here.
2. Histories shorter than `max_length`, the paper's L, are filled up with zeros at the old end, as in its code.
3. The activation of both layers is ReLU; the paper tries several.
"""

import torch
from torch import nn

from rlrec.recommenders.sequence_recommender import SequenceRecommender


class CaserConvolutions(nn.Module):
    """The pictures (B, L, d) of the newest L items, oldest first, -> z of eq. 9 (B, d).

    Args:
        length: L.
        dim: d.
        horizontal: filters of each height from 1 to L.
        vertical: filters of height L and width 1.
        dropout: before the fully connected layer.
    """

    def __init__(self, length: int, dim: int, horizontal: int, vertical: int, dropout: float):
        super().__init__()
        self.horizontal = nn.ModuleList(nn.Conv1d(dim, horizontal, height) for height in range(1, length + 1))
        self.vertical = nn.Linear(length, vertical, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(length * horizontal + vertical * dim, dim)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        columns = picture.mT.contiguous()  # (B, d, L)
        features = [convolution(columns).relu().amax(-1) for convolution in self.horizontal]  # each (B, horizontal)
        features.append(self.vertical(columns).mT.flatten(1))  # (B, vertical * d), filter by filter
        return self.output(self.dropout(torch.cat(features, dim=1))).relu()


class PointwiseCaser(SequenceRecommender):
    """Tang and Wang's encoder under the recommender contract.

    Args:
        horizontal_filters: of each height (paper: 4 to 64).
        vertical_filters: (paper: 1 to 16).
        the others: as in `SequenceRecommender`.

    >>> model = PointwiseCaser(num_users=3, num_items=5)
    >>> batch = {"user": torch.tensor([1]), "item": torch.tensor([4])}
    >>> model({**batch, "history": torch.tensor([[2, 3]]), "history_labels": torch.tensor([[1.0, 0.0]])}).shape
    torch.Size([1])
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *sizes: int,
        horizontal_filters: int = 4,
        vertical_filters: int = 4,
        dropout: float = 0.0,
        **common,
    ):
        super().__init__(num_users, num_items, *sizes, dropout=dropout, **common)
        self.config |= {"horizontal_filters": horizontal_filters, "vertical_filters": vertical_filters}
        dim = self.embedding_dim
        self.convolutions = CaserConvolutions(self.max_length, dim, horizontal_filters, vertical_filters, dropout)

    def represent(self, x: torch.Tensor, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The convolutions of the history, moved to the right."""
        return self.convolutions(to_right(x, given, self.max_length))


def to_right(x: torch.Tensor, given: torch.Tensor, length: int) -> torch.Tensor:
    """Vectors (B, L, d) that stand at the left, as `given` (B, L) says, -> (B, length, d), zeros first.

    >>> x, given = torch.tensor([[[5.0], [6.0], [0.0]]]), torch.tensor([[True, True, False]])
    >>> to_right(x, given, 4).flatten().tolist()
    [0.0, 0.0, 5.0, 6.0]
    """
    places = given.sum(1, keepdim=True) - length + torch.arange(length, device=x.device)  # (B, length)
    moved = x[torch.arange(len(x), device=x.device).unsqueeze(1), places.clamp(min=0)]
    return moved * (places >= 0).unsqueeze(-1)
