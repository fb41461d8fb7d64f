"""The ``.safetensors`` of a model: its state_dict and, of an expanded one, its blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_model
from torch import fx, nn

from reparam_kit.archives import require_sound
from reparam_kit.digests import fingerprint
from reparam_kit.errors import InputError, first_line
from reparam_kit.kinds import TENSORS, refuse_others
from reparam_kit.record import record, repeat
from reparam_kit.states import fill

_RECORD, _CHECKSUM = "reparam_kit", "reparam_kit_sha256"  # keys in the metadata
_METADATA = "_safetensors_metadata"


def write_tensors(model: nn.Module, path: Path) -> None:
    """Write its state_dict, its blocks, the metadata of the file that its weights came from, and a checksum, which is
    filled in when the tensors are there.
    """
    recorded, blank = record(model), fingerprint(None)
    ours = ({_RECORD: json.dumps(recorded)} if recorded else {}) | {_CHECKSUM: blank}
    save_model(model, str(path), _attributes(model).get(_METADATA, {}) | ours)
    checksum = fingerprint([recorded, load_file(path)])
    with path.open("r+b") as file:
        header = file.read(8 + int.from_bytes(file.read(8), "little"))
        file.seek(8)
        file.write(header.replace(blank.encode(), checksum.encode()))


def with_tensors(model: nn.Module, path: Path, name: str) -> nn.Module:
    """Return ``model``, expanded as the file says, if it does, and with its weights and metadata.

    Raises:
        InputError: they do not fit the model, which messages call ``name``; or this is no such file, or damaged.
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
        raise InputError(
            f"{path} does not fit {name}: it is of an expanded model, and its layers are others: {first_line(error)}"
        ) from None
    except (OSError, SafetensorError) as error:
        refuse_others(path, TENSORS)
        raise InputError(f"{path} is not a safetensors file, or is truncated: {first_line(error)}") from None
    fill(model, state, path, name)
    others = {key: text for key, text in metadata.items() if key not in (_RECORD, _CHECKSUM)}
    if others:
        _attributes(model)[_METADATA] = others
    return model


def _attributes(model: nn.Module) -> dict[str, Any]:
    """Return what copies of ``model`` keep."""
    return model.meta if isinstance(model, fx.GraphModule) else vars(model)
