"""Scales that follow the weights: a layer whose weight grows beyond the file's last level gets a wider scale."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from math import prod
from typing import cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from reparam_kit.errors import InputError, printable
from reparam_kit.onnx.importer.rounded import Reach, Rounded, arranged
from reparam_kit.onnx.importer.values import dtype_of
from reparam_kit.onnx.provenance import Provenance, Source
from reparam_kit.onnx.scales import OwnScale, own_scales
from reparam_kit.onnx.weights import OnnxFile, parse_onnx, stored_tensors

_log = logging.getLogger(__name__)

_HALF = 0.499  # of a level: what is nearer to the last one than to one beyond


def let_scales_follow(model: fx.GraphModule) -> None:
    """Let each scale that the file has for one weight alone follow that weight, in place; what stays is logged.

    The model computes what it did, for weights are within the levels of the file yet.

    Raises:
        InputError: the file stores no weights as integers, or has no such scale.
    """
    provenance: Provenance = model.meta["onnx"]
    file = OnnxFile(parse_onnx(provenance.payload, "the original"), provenance.external)
    places, following = own_scales(file.model), dict[str, OwnScale]()
    reasons = Counter[str]()
    for name, source in provenance.tensors.items():
        owner, _, own = name.rpartition(".")
        if source.grid is None or own == "bias":
            continue
        place = places.get(source.key, "the file has no scale for it alone")
        layer = model.get_submodule(owner)
        stays = place if isinstance(place, str) else _let_follow(layer, source, place, file)
        if isinstance(place, str) or stays is not None:
            reasons[str(stays)] += 1
        else:
            following[name] = place
    if not following:
        why = "; ".join(reasons) or "it stores no weights as integers"
        raise InputError(f"{provenance.path or 'the file'} has no scale that could follow its weight: {why}")
    if reasons:
        _log.warning(
            "scales of %s of %s quantised weights stay as they are: %s",
            reasons.total(), len(following) + reasons.total(),
            printable("; ".join(f"{why} ({count})" for why, count in reasons.items())),
        )  # fmt: skip
    model.meta["onnx"] = replace(provenance, scales=following)


def _let_follow(layer: nn.Module, source: Source, place: OwnScale, file: OnnxFile) -> str | None:
    """Let the scale of this layer follow its weight, or return why it cannot."""
    grid, tensor = source.grid, stored_tensors(file.model)[place.key]
    assert grid is not None
    numbers, known = file.read(tensor).reshape(-1), np.asarray(grid.scale).reshape(-1)
    if not isinstance(layer, Rounded) or "weight" not in layer.grids:
        return "no convolution or matrix product takes it"
    if numbers.size != known.size:
        return "it has a scale for each block of numbers"
    if not np.array_equal(numbers.astype(known.dtype), known):
        return "it is taken with another constant"
    weight = cast("Tensor", layer.weight).detach()
    if not (np.isfinite(numbers) & (numbers > 0)).all() or not weight.numel():
        return "there is nothing that its scale tells"
    entries = np.arange(known.size).reshape(np.asarray(grid.scale).shape)
    order = arranged(entries, source, tuple(weight.shape))  # which of the scales each weight has
    if order.numel() > 1 and not _is_per_output(layer, order, place, file):
        return "its scales are not one for each output"
    scale = torch.from_numpy(known.copy())[order]
    for name, buffer in {"scale": scale, **_reach(layer, weight, scale)._asdict()}.items():
        layer.register_buffer(f"weight_{name}", buffer, persistent=False)
    layer.moves = dtype_of(tensor.data_type)
    return None


def _is_per_output(layer: Rounded, order: Tensor, place: OwnScale, file: OnnxFile) -> bool:
    """Return whether these scales are one for each output of the layer, and so those of its bias, if they are its
    own.
    """
    outputs = order.shape[1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0]
    of_bias = outputs
    if layer.has_wide_bias:
        bias = cast("Tensor", layer.bias)
        of_bias = bias.numel() if place.bias is None else prod(stored_tensors(file.model)[place.bias].dims)
    return outputs == order.numel() == of_bias


def _reach(layer: Rounded, weight: Tensor, scale: Tensor) -> Reach:
    """Return how far the levels of the file go, for each scale of ``weight``."""
    first, last, _ = layer.grids["weight"]
    zero, level = layer.get_buffer("weight_zero"), weight.to(scale.dtype) / scale
    dims = [dim for dim in range(weight.dim()) if scale.shape[dim] == 1]
    below, above = (zero - first).to(scale.dtype), (last - zero).to(scale.dtype)
    least, greatest = -level.amin(dims, True), level.amax(dims, True)
    most, top = torch.maximum(below, above), torch.maximum(least, greatest).round()
    # An end with few levels clips whatever the scale is. Numbers that a QuantizeLinear clips in each pass may be beyond
    # an end from the start.
    low, high = (
        torch.where(room < most / 2, torch.inf, torch.maximum(room, far) + _HALF)
        for room, far in ((below, least), (above, greatest))
    )
    return Reach(-low, high, torch.where(top > 0, top - _HALF, torch.nan))
