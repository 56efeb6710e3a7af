"""GRU4Rec for clicks and ratings: the last state of a GRU over the history.

Paper: Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks" (ICLR 2016), section 3.1: the GRU
(eqs. 2 to 5) over embedded items.

Departures, beside the rulings of `sequence_recommender`:

1. The reset gate acts on U h and not on h before the product (eq. 4), as in torch and torch-rechub (`gru`).
2. The last state is compared with the target by an MLP; sessions in parallel and ranking losses (3.2, 3.3) belong to
   the prediction of the next item.
"""

import torch
from torch import nn

from rlrec.recommenders.gru import GRU
from rlrec.recommenders.sasrec import newest_states
from rlrec.recommenders.sequence_recommender import SequenceRecommender


class PointwiseGRU4Rec(SequenceRecommender):
    """Hidasi et al.'s encoder under the recommender contract.

    Args:
        gru_layers: stacked GRUs (paper: one was best).
        the others: as in `SequenceRecommender`.

    >>> model = PointwiseGRU4Rec(num_users=3, num_items=5)
    >>> batch = {"user": torch.tensor([1]), "item": torch.tensor([4])}
    >>> model({**batch, "history": torch.tensor([[2, 3]]), "history_labels": torch.tensor([[1.0, 0.0]])}).shape
    torch.Size([1])
    """

    def __init__(self, num_users: int, num_items: int, *sizes: int, gru_layers: int = 1, **common):
        super().__init__(num_users, num_items, *sizes, **common)
        self.config["gru_layers"] = gru_layers
        dim = self.embedding_dim
        self.layers = nn.ModuleList(GRU(dim) for _ in range(gru_layers))

    def represent(self, x: torch.Tensor, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The state at the newest item."""
        for layer in self.layers:
            x = layer(x)
        return newest_states(x, given)
