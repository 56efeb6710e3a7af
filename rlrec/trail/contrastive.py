"""TRAIL's contrastive term: explanations of similar samples are drawn together, the others pushed apart.

Paper: Zhang et al., "Following the TRAIL: Predicting and Explaining Tomorrow's Hits with a Fine-Tuned LLM" (2026),
eqs. 7 and 8, appendix A.3. SPEC section 4.

    e = LayerNorm(W2 dropout(relu(W1 e' + b1)))
    L(S) = -log(sum over S+ of exp(e.e+ / tau) / sum over S+ and S- of exp(e.e' / tau))

Symbols: B sequences of L tokens, N samples, e' (N, d_in) the mean last hidden state of an explanation, e (N, d_out)
its projection, S+ the k most similar other samples of a batch by eq. 6, S- all the rest.

Departures:

1. Eq. 8 prints exp(e.e') / tau, where tau cancels: exp(e.e' / tau), as in SimCLR, which the paper follows.
2. LayerNorm leaves vectors about sqrt(d_out) long, so at tau = 0.1 logits reach 10 d_out (1,280): the softmax is one
   or zero, and most pairs give no gradient. Embeddings are divided by their lengths first, as in SimCLR;
   `cosine=False` takes the products as printed.
3. The paper does not name sigma of eq. 7, nor widths and dropout: ReLU and d_out = 128, as in SimCLR, d_hidden = d_in,
   dropout 0.1.
4. A sample is neither positive nor negative of itself. Anchors without a positive or without a negative are left out
   of the mean.
"""

import os

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlrec.files import read_tensors, replacing

PROJECTION_HEAD = "projection_head"  # attribute of the causal LM, prefix of its parameters, and stem of its file


def explanation_mask(input_ids: Tensor, start_id: int, end_id: int) -> Tensor:
    """Whether each token (B, L) lies strictly between the last start marker and the first end marker after it.

    The last one, because a prompt may show the markers before the answer uses them.

    >>> explanation_mask(torch.tensor([[8, 5, 9, 8, 6, 7, 9, 0], [8, 5, 6, 7, 3, 3, 3, 3]]), 8, 9).int().tolist()
    [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]]
    """
    length = input_ids.size(1)
    position = torch.arange(length, device=input_ids.device)
    start = torch.where(input_ids == start_id, position, -1).amax(dim=1, keepdim=True)
    end = torch.where((input_ids == end_id) & (position > start), position, length).amin(dim=1, keepdim=True)
    return (position > start) & (position < end) & (start >= 0) & (end < length)


def explanation_embeddings(hidden: Tensor, input_ids: Tensor, start_id: int, end_id: int) -> Tensor:
    """e' (B, d): mean of the last hidden states (B, L, d) of the tokens strictly between the markers, in float32.

    Raises:
        ValueError: a row without both markers, or with nothing between them.

    >>> hidden = torch.tensor([[[9.0], [9.0], [1.0], [3.0], [9.0]]])
    >>> explanation_embeddings(hidden, torch.tensor([[4, 8, 5, 6, 9]]), start_id=8, end_id=9).tolist()
    [[2.0]]
    """
    mask = explanation_mask(input_ids, start_id, end_id)
    counts = mask.sum(dim=1, keepdim=True)
    if not counts.all():
        raise ValueError(
            f"Row {int(counts.flatten().argmin())} of the batch has no explanation between the markers {start_id} and "
            f"{end_id}; drop such rows, as TRAILTrainer's preparation does."
        )
    return hidden.float().masked_fill(~mask[..., None], 0).sum(dim=1) / counts


class ProjectionHead(nn.Module):
    """Eq. 7, from e' (N, d_in) to e (N, d_out); in float32 also under autocast. W2 has no bias.

    >>> ProjectionHead(8, 16, 4)(torch.ones(3, 8)).shape
    torch.Size([3, 4])
    """

    def __init__(self, d_in: int, d_hidden: int, d_out: int, dropout: float = 0.1):
        super().__init__()
        self.first = nn.Linear(d_in, d_hidden, dtype=torch.float32)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(d_hidden, d_out, bias=False, dtype=torch.float32)
        self.norm = nn.LayerNorm(d_out, dtype=torch.float32)

    def forward(self, embeddings: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(self.first.weight)
            return self.norm(self.second(self.dropout(torch.relu(self.first(embeddings)))))


def positives(similarity: Tensor, k: int, others: Tensor | None = None) -> Tensor:
    """S+ as a mask (N, N): in each row, the k most similar others, ties to the lower index; all if there are fewer.

    Args:
        similarity: (N, N), eq. 6 (`rlrec.trail.similarity.similarity_matrix`).
        others: (N, N), whether two rows are two samples; all but the diagonal unless given.

    >>> positives(torch.tensor([[1.0, 0.2, 0.9], [0.2, 1.0, 0.2], [0.9, 0.2, 1.0]]), k=1).int().tolist()
    [[0, 0, 1], [1, 0, 0], [1, 0, 0]]
    """
    others = _all_but_the_diagonal(similarity) if others is None else others
    order = similarity.masked_fill(~others, float("-inf")).argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(others).scatter(1, order[:, :k], True) & others


def info_nce(
    embeddings: Tensor,
    positive_mask: Tensor,
    temperature: float,
    others: Tensor | None = None,
    cosine: bool = True,
) -> Tensor:
    """Mean of eq. 8 over the anchors that have a positive and a negative; 0, with a graph, if there is none.

    Args:
        embeddings: e, (N, d).
        positive_mask: S+, (N, N); what is neither positive nor excluded by `others` is S-.
        temperature: tau.
        others: as for `positives`.
        cosine: divide the embeddings by their lengths (departure 2).

    >>> e = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])  # only the first two have a positive
    >>> info_nce(e, torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool(), 1.0).exp()  # (e + 1) / e
    tensor(1.3679)
    """
    others = _all_but_the_diagonal(positive_mask) if others is None else others
    anchors = _anchors(positive_mask, others)
    if not anchors.any():
        return embeddings.sum() * 0.0
    logits = (_products(embeddings, cosine) / temperature)[anchors]
    every = logits.masked_fill(~others[anchors], float("-inf")).logsumexp(dim=1)
    positive = logits.masked_fill(~(positive_mask & others)[anchors], float("-inf")).logsumexp(dim=1)
    return (every - positive).mean()


def contrastive_accuracy(
    embeddings: Tensor, positive_mask: Tensor, others: Tensor | None = None, cosine: bool = True
) -> Tensor:
    """The share of the anchors of `info_nce` whose nearest embedding is a positive; NaN if there is no anchor.

    >>> e = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
    >>> contrastive_accuracy(e, torch.tensor([[0, 1, 0], [0, 0, 1], [0, 1, 0]]).bool())  # 0 to 1, 1 to 0, 2 to 1
    tensor(0.6667)
    """
    others = _all_but_the_diagonal(positive_mask) if others is None else others
    anchors = _anchors(positive_mask, others)
    nearest = _products(embeddings, cosine).masked_fill(~others, float("-inf")).argmax(dim=1, keepdim=True)
    return positive_mask.gather(1, nearest)[anchors].float().mean()


def _all_but_the_diagonal(like: Tensor) -> Tensor:
    return ~torch.eye(len(like), dtype=torch.bool, device=like.device)


def _anchors(positive_mask: Tensor, others: Tensor) -> Tensor:
    """(N,): whether a row has both a positive and a negative."""
    return (positive_mask & others).any(dim=1) & (~positive_mask & others).any(dim=1)


def _products(embeddings: Tensor, cosine: bool) -> Tensor:
    embeddings = F.normalize(embeddings.float(), dim=1) if cosine else embeddings.float()
    return embeddings @ embeddings.T


def add_projection_head(model: nn.Module, d_hidden: int | None, d_out: int, dropout: float) -> None:
    """Give the causal LM `model` a head, left out of the files that its `save_pretrained` writes.

    As a submodule of the model it is wrapped, synchronised, optimised and moved with it; d_hidden None: d_in.
    """
    d_in = model.config.get_text_config().hidden_size
    head = ProjectionHead(d_in, d_hidden or d_in, d_out, dropout)
    model.add_module(PROJECTION_HEAD, head.to(model.device))
    names = {f"{PROJECTION_HEAD}.{name}" for name in head.state_dict()}
    model._keys_to_ignore_on_save = {*(model._keys_to_ignore_on_save or []), *names}


def save_projection_head(model: nn.Module, folder: str | os.PathLike, state_dict: dict[str, Tensor] | None = None):
    """Write projection_head.safetensors; under ZeRO-3 and FSDP the gathered `state_dict` holds the weights."""
    inner = f"{PROJECTION_HEAD}."
    gathered = {name.split(inner)[-1]: value for name, value in (state_dict or {}).items() if inner in name}
    tensors = gathered or getattr(model, PROJECTION_HEAD).state_dict()
    path = os.path.join(folder, f"{PROJECTION_HEAD}.safetensors")
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path, checksum=False) as temporary:
        safetensors.torch.save_file(tensors, temporary)


def load_projection_head(model: nn.Module, folder: str | os.PathLike) -> None:
    """Read projection_head.safetensors back into the model's head.

    Raises:
        FileNotFoundError: when the folder has none.
    """
    path = os.path.join(folder, f"{PROJECTION_HEAD}.safetensors")
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path} is missing: the folder was not saved by TRAILTrainer, or with lambda_con=0, which has no head."
        )
    getattr(model, PROJECTION_HEAD).load_state_dict(read_tensors(path))
