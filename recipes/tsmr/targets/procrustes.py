"""The orthogonal map between two embedding spaces."""

from __future__ import annotations

import torch
from torch import Tensor


def procrustes(products: Tensor) -> Tensor:
    """Return the orthogonal map of rows ``x`` ``[N, D]`` nearest to rows ``y`` ``[N, T]``: ``x @ map`` is near ``y``.

    Orthonormal rows, or columns where T is smaller than D (Schönemann, Psychometrika 1966).

    Args:
        products: ``x.T @ y``, or a multiple of it, ``[D, T]``.

    Returns:
        float64 ``[D, T]``, on the CPU: MPS has none, and for matrices of this size it is no slower.
    """
    left, _, right = torch.linalg.svd(products.cpu().double(), full_matrices=False)
    nearest: Tensor = left @ right
    return nearest
