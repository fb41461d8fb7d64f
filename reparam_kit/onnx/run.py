"""Running ONNX files with onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import onnxruntime
import torch
from onnx import GraphProto, ModelProto
from torch import Tensor

from reparam_kit.errors import InputError, first_line, suggestion
from reparam_kit.files import read_file, require_file
from reparam_kit.onnx.external import external_files
from reparam_kit.onnx.weights import all_tensors, parse_onnx

# What onnxruntime calls the types of tensors that numpy and torch know.
TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(bool)": torch.bool,
    **{
        f"tensor({kind}{bits})": getattr(torch, f"{kind}{bits}")
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
}

# What the arrays of an archive may unpack to: so much, or so many times its size.
_UNPACKED, _TIMES_PACKED = 2**28, 20
_LEVELS = onnxruntime.GraphOptimizationLevel
_Providers = list["str | tuple[str, dict[str, int]]"]


def open_session(
    path: str | Path, *, optimised: bool = True, threads: int = 0, cuda: int | None = None
) -> onnxruntime.InferenceSession:
    """Return ``path`` in onnxruntime, on the CPU or on CUDA: the one way that this package's commands give it a file.

    onnxruntime opens whatever a model names as the place of its tensors, so that is looked at before.

    Args:
        path: an ``.onnx`` file.
        optimised: all of onnxruntime's graph optimisations, or none.
        threads: to run an operator on; 0: as many as there are cores.
        cuda: number of the CUDA device to run on, by an onnxruntime that is built for it.

    Raises:
        InputError: ``path`` is not an ONNX model, keeps tensors outside its folder, or onnxruntime cannot load it, or
            not on CUDA.

    >>> [entry.name for entry in open_session("deployed.onnx").get_inputs()]
    ['x']
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = _LEVELS.ORT_ENABLE_ALL if optimised else _LEVELS.ORT_DISABLE_ALL
    session = _open(Path(path), options, _providers(cuda))
    if cuda is not None and "CUDAExecutionProvider" not in session.get_providers():
        raise InputError(f"onnxruntime cannot run {path} on CUDA: it does not find CUDA's libraries")
    return session


def fused(path: str | Path) -> ModelProto:
    """Return the net with what quantisers fuse before they quantise, such as a BatchNorm into its convolution.

    Raises:
        InputError: as :func:`open_session`.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _LEVELS.ORT_ENABLE_BASIC
    with TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "fused.onnx")
        _open(Path(path), options, _providers(None))
        return parse_onnx(Path(options.optimized_model_filepath).read_bytes(), str(path))


def _open(
    path: Path, options: onnxruntime.SessionOptions, providers: _Providers
) -> onnxruntime.InferenceSession:
    payload = read_file(path, "an .onnx file")
    files = external_files(all_tensors(parse_onnx(payload, str(path))), path)
    options.log_severity_level = 4
    options.add_session_config_entry(
        "session.load_model_format", "ONNX"
    )  # not the one that the content suggests
    try:
        return onnxruntime.InferenceSession(path if files else payload, options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise InputError(f"onnxruntime cannot load {path}: {_line(error)}") from error


def _providers(cuda: int | None) -> _Providers:
    on_cuda = [] if cuda is None else [("CUDAExecutionProvider", {"device_id": cuda})]
    return [*on_cuda, "CPUExecutionProvider"]


class Session:
    """One file in onnxruntime, with its graph optimisations all on or all off.

    Outputs that are no tensors of numbers (text, sequences) are left out, and named in ``left_out``.

    Raises:
        InputError: onnxruntime cannot load the file, or it has no other outputs.
    """

    def __init__(self, path: Path, *, optimised: bool, threads: int = 0) -> None:
        self.path = path
        self._session = open_session(path, optimised=optimised, threads=threads)
        self.inputs = self._session.get_inputs()
        outputs = self._session.get_outputs()
        self._outputs = [entry.name for entry in outputs if entry.type in TYPES]
        self.left_out = [entry.name for entry in outputs if entry.type not in TYPES]
        if not self._outputs:
            raise InputError(f"{path} has no output of numbers")

    @cached_property
    def graph(self) -> GraphProto:
        """What the file holds."""
        return parse_onnx(read_file(self.path, "an .onnx file"), str(self.path)).graph

    @property
    def has_free_batch(self) -> bool:
        """Whether the first dimension of every input is free."""
        return all(entry.shape and not isinstance(entry.shape[0], int) for entry in self.inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the outputs for ``inputs``, both in the order of the graph.

        Raises:
            InputError: they do not fit the graph. Of floating-point numbers the precision is no matter.
        """
        shapes = [list(tensor.shape) for tensor in inputs]
        if len(inputs) != len(self.inputs):
            raise InputError(
                f"{self.path} takes {len(self.inputs)} inputs, not {len(inputs)} of shapes {shapes}"
            )
        feed = {
            entry.name: _of_precision(tensor, TYPES.get(entry.type)).numpy()
            for entry, tensor in zip(self.inputs, inputs, strict=True)
        }
        try:
            arrays = self._session.run(self._outputs, feed)
        except Exception as error:  # as above
            raise InputError(
                f"onnxruntime cannot run {self.path} on inputs of shapes {shapes}: {_line(error)}"
            ) from error
        return {name: torch.from_numpy(array) for name, array in zip(self._outputs, arrays, strict=True)}


def _of_precision(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    floating = dtype is not None and dtype.is_floating_point and tensor.is_floating_point()
    return tensor.to(dtype) if floating else tensor


def read_inputs(path: str | Path, model: str | Path) -> list[Tensor]:
    """Return what the user's ``.npz`` file ``path`` holds for the inputs of the ONNX file ``model``: arrays of their
    names.

    Raises:
        InputError: ``path`` is not a ``.npz`` of numbers or lacks an input, or ``model`` is not an ONNX file.

    >>> np.savez("inputs.npz", x=np.zeros((2, 3, 16, 16), np.float32))
    >>> [x.shape for x in read_inputs("inputs.npz", "deployed.onnx")]
    [torch.Size([2, 3, 16, 16])]
    """
    tensors = read_arrays(path)
    graph = parse_onnx(read_file(model, "an .onnx file"), str(model)).graph
    stored = {tensor.name for tensor in graph.initializer}
    names = [info.name for info in graph.input if info.name not in stored]
    for name in names:
        if name not in tensors:
            raise InputError(
                f"{path} has no array {name!r}, an input of {model}; {suggestion(name, tensors, 'arrays')}"
            )
    return [tensors[name] for name in names]


def read_arrays(path: str | Path) -> dict[str, Tensor]:
    """Return the arrays of the user's ``.npz`` file ``path``, by their names.

    Raises:
        InputError: it is not a ``.npz`` of numbers.
    """
    try:
        with require_file(path, "a .npz file").open("rb") as file:
            _check_unpacked(Path(path))
            content = np.load(file, allow_pickle=False)
            arrays = content.items() if isinstance(content, np.lib.npyio.NpzFile) else ()
            tensors = {name: torch.from_numpy(array) for name, array in arrays}
    except (OSError, EOFError, ValueError, TypeError, MemoryError, BadZipFile) as error:
        # Of what is no archive numpy says that it might be a pickle, and how to have that run.
        known = isinstance(error, OSError) or is_zipfile(path)
        reason = first_line(error) if known else "it is no archive of arrays"
        raise InputError(f"{path} is not a .npz file of numbers: {reason}") from error
    if not tensors:
        raise InputError(
            f"{path} holds no arrays with names; write it with numpy.savez, an array for each input"
        )
    return tensors


def _check_unpacked(path: Path) -> None:
    if is_zipfile(path):
        with ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > max(_UNPACKED, _TIMES_PACKED * path.stat().st_size):
            raise ValueError(f"it would unpack to {unpacked:,} bytes; write it with numpy.savez")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
