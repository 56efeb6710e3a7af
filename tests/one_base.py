"""How tests count the copies of a frozen base in memory."""

import gc

import torch


def storages(tensors) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def tables_in_memory(shape: torch.Size) -> set[int]:
    """Storages of this shape that any tensor of this process holds: whoever has a base has its word embeddings."""
    gc.collect()
    return storages(x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.shape == shape)
