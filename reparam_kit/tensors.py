"""The ``.safetensors`` of a model: its state_dict and, of an expanded one, its blocks."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_model
from torch import nn

from reparam_kit.archives import require_sound
from reparam_kit.digests import fingerprint
from reparam_kit.errors import InputError, first_line
from reparam_kit.kinds import TENSORS, refuse_others
from reparam_kit.record import record, repeat

_RECORD, _CHECKSUM = "reparam_kit", "reparam_kit_sha256"  # keys in the metadata


def write_tensors(model: nn.Module, path: Path) -> None:
    """Write its state_dict, its blocks, and a checksum of both, which is filled in when the tensors are there."""
    recorded, blank = record(model), fingerprint(None)
    save_model(model, str(path), ({_RECORD: json.dumps(recorded)} if recorded else {}) | {_CHECKSUM: blank})
    checksum = fingerprint([recorded, load_file(path)])
    with path.open("r+b") as file:
        header = file.read(8 + int.from_bytes(file.read(8), "little"))
        file.seek(8)
        file.write(header.replace(blank.encode(), checksum.encode()))


def with_tensors(model: nn.Module, path: Path) -> nn.Module:
    """Return ``model``, expanded as the file says, if it does, and with its weights. RuntimeError if they do
    not fit.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        state, recorded = load_file(path), json.loads(metadata.get(_RECORD, "{}"))
        if metadata.keys() & {_RECORD, _CHECKSUM}:  # those of other makers have none
            require_sound(path, metadata.get(_CHECKSUM), [recorded, state])
        if recorded:
            model = repeat(model, recorded, state.values())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RuntimeError(f"it is of an expanded model, and its layers are others: {error}") from None
    except (OSError, SafetensorError) as error:
        refuse_others(path, TENSORS)
        raise InputError(f"{path} is not a safetensors file, or is truncated: {first_line(error)}") from None
    tensors = model.state_dict(keep_vars=True)
    # A tensor that the model has under several names is in the file under one of them.
    known = {id(tensor): state[name] for name, tensor in tensors.items() if name in state}
    others = {name: known[id(tensor)] for name, tensor in tensors.items() if id(tensor) in known}
    model.load_state_dict(others | state)
    return model
