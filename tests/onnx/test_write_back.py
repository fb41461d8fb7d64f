"""The trained weights in the original file: exactly them, stored as they were, and nothing else changed."""

from __future__ import annotations

from copy import deepcopy
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import ModelProto, StringStringEntryProto, TensorProto, helper, numpy_helper
from onnx_models import Store, net, raw, save, save_external, typed, without_payloads
from onnx_text import assert_as_runtime
from torch import fx, nn
from trained import initializers, names, parameter, train

from reparam_kit.algebra import Expanded
from reparam_kit.errors import InputError, VerificationError
from reparam_kit.onnx import diff, import_onnx, write_back
from reparam_kit.onnx.keys import TensorKey
from reparam_kit.onnx.provenance import Permuted, Source
from reparam_kit.surgery import expand, fold

REAL = ["mobilefacenet", "mobilefacenet_batch1", "teacher_y1", "teacher_mbf512"]
STORES = {
    "raw float": (raw(TensorProto.FLOAT), "float"),
    "float_data": (typed(TensorProto.FLOAT), "float"),
    "raw float16": (raw(TensorProto.FLOAT16), "float16"),
    "float16 in int32_data": (typed(TensorProto.FLOAT16), "float16"),
    "raw bfloat16": (raw(TensorProto.BFLOAT16), "bfloat16"),
    "bfloat16 in int32_data": (typed(TensorProto.BFLOAT16), "bfloat16"),
    "raw double": (raw(TensorProto.DOUBLE), "double"),
    "double_data": (typed(TensorProto.DOUBLE), "double"),
}


@pytest.mark.parametrize(("store", "dtype"), STORES.values(), ids=STORES)
@pytest.mark.parametrize("as_float32", [False, True], ids=["in the file's dtype", "trained in float32"])
def test_a_weight_is_rounded_once_and_stored_as_it_was(
    tmp_path: Path, store: Store, dtype: str, as_float32: bool
) -> None:
    original = save(net(store, dtype), tmp_path / "original.onnx")
    model = import_onnx(original)
    if as_float32:
        model.float()
    weight = parameter(model, "conv_w")
    with torch.no_grad():
        weight.add_(torch.randn_like(weight))
    write_back(model, tmp_path / "new.onnx")

    old, new = initializers(original), initializers(tmp_path / "new.onnx")
    assert new["conv_w"] == store("conv_w", weight.detach())
    assert new["conv_w"] != old["conv_w"]
    assert all(new[name] == old[name] for name in old if name != "conv_w")
    assert without_payloads(tmp_path / "new.onnx") == without_payloads(original)


@pytest.mark.parametrize(("store", "dtype"), STORES.values(), ids=STORES)
@pytest.mark.parametrize("cast", [None, torch.float16, torch.float32, torch.float64], ids=str)
def test_an_untouched_model_gives_the_same_bytes(
    tmp_path: Path, store: Store, dtype: str, cast: torch.dtype | None
) -> None:
    original = save(net(store, dtype), tmp_path / "original.onnx")
    write_back(import_onnx(original).to(cast), tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == original.read_bytes()


def test_weights_in_constant_nodes(tmp_path: Path) -> None:
    original = save(net(constants=("conv_w", "fc_b")), tmp_path / "original.onnx")
    model = train(import_onnx(original))
    write_back(model, tmp_path / "new.onnx")
    again = import_onnx(tmp_path / "new.onnx")
    for name in ("conv_w", "conv_b", "fc_w", "fc_b"):
        assert parameter(again, name).equal(parameter(model, name))
    assert without_payloads(tmp_path / "new.onnx") == without_payloads(original)


def everything() -> ModelProto:
    """Every field that an exporter may fill beside the weights."""
    model = net(batch="1")
    model.training_info.add().algorithm.CopyFrom(helper.make_graph([], "step", [], []))
    graph = model.graph
    graph.doc_string = "of the graph"
    graph.value_info.append(helper.make_tensor_value_info("wide", TensorProto.FLOAT, [1, 4, 8, 8]))
    graph.quantization_annotation.add(tensor_name="wide")
    graph.metadata_props.append(StringStringEntryProto(key="origin", value="somewhere"))
    graph.node[1].doc_string = "of the node"
    graph.initializer[0].doc_string = "of the tensor"
    model.opset_import.append(helper.make_opsetid("custom", 3))
    return model


def test_everything_else_in_the_file_stays(tmp_path: Path) -> None:
    original = save(everything(), tmp_path / "original.onnx")
    write_back(train(import_onnx(original)), tmp_path / "new.onnx")
    assert len(diff(original, tmp_path / "new.onnx").payloads) == 4
    assert without_payloads(tmp_path / "new.onnx") == without_payloads(original)


@pytest.mark.parametrize("name", REAL)
def test_real_models(tmp_path: Path, shared_faces: Path, name: str) -> None:
    original = shared_faces / "models" / f"{name}.onnx"
    model = import_onnx(original)
    write_back(fold(expand(model)), tmp_path / "folded.onnx")
    assert (tmp_path / "folded.onnx").read_bytes() == original.read_bytes()

    for weight in model.parameters():
        weight.data.mul_(1 + 0.01 * torch.rand_like(weight))
    write_back(model, tmp_path / "trained.onnx")
    assert without_payloads(tmp_path / "trained.onnx") == without_payloads(original)
    x = torch.randn(1, 3, 112, 112)
    (found,) = onnxruntime.InferenceSession(tmp_path / "trained.onnx").run(
        None, {onnx.load(original).graph.input[0].name: x.numpy()}
    )
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(
        torch.from_numpy(found), expected, rtol=0, atol=1e-5 * expected.abs().max().item()
    )


SHARED = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w)
    y = Conv <pads = [1, 1, 1, 1]> (a, w)
}
"""


def shared(path: Path) -> Path:
    model = onnx.parser.parse_model(SHARED)
    model.graph.initializer.append(raw(TensorProto.FLOAT)("w", torch.randn(3, 3, 3, 3)))
    return save(model, path)


def test_an_initializer_of_two_nodes_is_written_once(tmp_path: Path) -> None:
    model = train(import_onnx(shared(tmp_path / "original.onnx")))
    write_back(model, tmp_path / "new.onnx")
    written = numpy_helper.to_array(initializers(tmp_path / "new.onnx")["w"])
    assert len(model.meta["onnx"].tensors) == 2
    assert np.array_equal(written, parameter(model, "w").detach())


def test_two_values_for_one_initializer(tmp_path: Path) -> None:
    model = import_onnx(shared(tmp_path / "original.onnx"))
    first, second = (name.rpartition(".")[0] for name in model.meta["onnx"].tensors)
    model.get_submodule(second).weight = nn.Parameter(model.get_submodule(first).weight + 1)
    with pytest.raises(InputError, match=f"'{first}.weight' and '{second}.weight' differ.*initializer 'w'"):
        write_back(model, tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()


@pytest.mark.parametrize(
    "store", [raw(TensorProto.BFLOAT16), typed(TensorProto.BFLOAT16)], ids=["raw", "typed"]
)
def test_bfloat16_bits(tmp_path: Path, store: Store) -> None:
    model = import_onnx(save(net(store, "bfloat16"), tmp_path / "original.onnx")).float()
    # 8 bits of significand: the first two are ties, which go to the even neighbour.
    parameter(model, "conv_b").data = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3e38])
    write_back(model, tmp_path / "new.onnx")
    tensor = initializers(tmp_path / "new.onnx")["conv_b"]
    bits = tensor.int32_data or np.frombuffer(tensor.raw_data, np.uint16).tolist()
    assert [f"{word:04x}" for word in bits] == ["3f80", "3f82", "3f81", "ff62"]


@pytest.mark.parametrize(
    ("store", "dtype", "value", "message"),
    [
        (
            raw(TensorProto.FLOAT),
            "float",
            float("nan"),
            "1 of 4 new values are NaN, infinite or too large for float32",
        ),
        (typed(TensorProto.FLOAT), "float", float("-inf"), "too large for float32"),
        (raw(TensorProto.FLOAT16), "float16", 70000.0, "too large for float16"),
        (raw(TensorProto.BFLOAT16), "bfloat16", 3.4e38, "too large for bfloat16"),
    ],
)
def test_values_that_are_not_finite(
    tmp_path: Path, store: Store, dtype: str, value: float, message: str
) -> None:
    model = import_onnx(save(net(store, dtype), tmp_path / "original.onnx")).float()
    parameter(model, "conv_b").data[1] = value
    with pytest.raises(InputError, match=f"initializer 'conv_b': .*{message}.*diverged"):
        write_back(model, tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()


def test_what_was_infinite_in_the_file_may_stay_so(tmp_path: Path) -> None:
    proto = net()
    values = torch.tensor([1.0, float("inf"), float("nan"), 2.0])
    next(t for t in proto.graph.initializer if t.name == "conv_b").CopyFrom(
        raw(TensorProto.FLOAT)("conv_b", values)
    )
    original = save(proto, tmp_path / "original.onnx")
    model = import_onnx(original)
    write_back(model, tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == original.read_bytes()
    parameter(model, "fc_b").data.zero_()
    write_back(model, tmp_path / "new.onnx")
    assert [change.name for change in diff(original, tmp_path / "new.onnx").payloads] == [
        "initializer 'fc_b'"
    ]


FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
net (float[n, 3, 8, 8] x) => (float[n, 4, 6, 6] y) { a = own.twice (x) b = Conv (a, w) y = own.twice (b) }
<opset_import: ["" : 17], domain: "own">
twice (a) => (b) { k = Constant <value = float {2.0}> () b = Mul (a, k) }
"""


def test_functions_are_kept(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(FUNCTION)
    proto.graph.initializer.append(raw(TensorProto.FLOAT)("w", torch.randn(4, 3, 3, 3)))
    original = save(proto, tmp_path / "original.onnx")
    model = train(import_onnx(original))
    write_back(model, tmp_path / "new.onnx")
    written = onnx.load(tmp_path / "new.onnx")
    assert written.functions == proto.functions
    assert written.graph.node == proto.graph.node
    assert without_payloads(tmp_path / "new.onnx") == without_payloads(original)
    assert_as_runtime(model, tmp_path / "new.onnx", torch.randn(2, 3, 8, 8))


APART = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 8, 8] x) => (float[n, 4, 6, 6] y) {
    c = Conv (x, w)
    y = BatchNormalization (c, scale, shift, mean, var)
}
"""


@pytest.mark.parametrize(("norm", "moved"), [("scale", {"w"}), ("batch", {"w", "mean"})])
def test_a_convolution_and_its_batch_norm_stay_apart(tmp_path: Path, norm: str, moved: set[str]) -> None:
    """The shift that a folded branch brings goes to the mean, as the file has no bias for it."""
    proto = onnx.parser.parse_model(APART)
    proto.graph.initializer.append(raw(TensorProto.FLOAT)("w", torch.randn(4, 3, 3, 3)))
    for name in ("scale", "shift", "mean", "var"):
        proto.graph.initializer.append(raw(TensorProto.FLOAT)(name, torch.rand(4) + 0.5))
    original = save(proto, tmp_path / "original.onnx")
    student = expand(import_onnx(original), "conv(k) + conv(1)", norm)
    student.train()(torch.randn(4, 3, 8, 8))
    with torch.no_grad():
        for module in student.modules():
            if isinstance(module, Expanded):
                for parameter in module.branches.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
    folded = fold(student)
    write_back(folded, tmp_path / "new.onnx")
    changed = {change.name.split("'")[1] for change in diff(original, tmp_path / "new.onnx").payloads}
    assert moved <= changed
    assert without_payloads(tmp_path / "new.onnx") == without_payloads(original)
    assert_as_runtime(folded.eval(), tmp_path / "new.onnx", torch.randn(2, 3, 8, 8))


@settings(deadline=None, max_examples=30)
@given(
    values=arrays.arrays(np.float32, 4, elements=st.floats(-6e4, 6e4, width=32)),
    kind=st.sampled_from(sorted(STORES)),
)
def test_any_values_are_stored_as_torch_rounds_them(values: np.ndarray, kind: str) -> None:
    store, dtype = STORES[kind]
    with TemporaryDirectory() as folder:
        model = import_onnx(save(net(store, dtype), Path(folder) / "original.onnx")).float()
        parameter(model, "conv_b").data = torch.from_numpy(values)
        write_back(model, Path(folder) / "new.onnx")
        assert initializers(Path(folder) / "new.onnx")["conv_b"] == store("conv_b", torch.from_numpy(values))


def _lose_a_tensor(model: fx.GraphModule) -> None:
    del model.get_submodule(names(model)["fc_b"].rpartition(".")[0]).bias


def _resize(model: fx.GraphModule) -> None:
    parameter(model, "fc_b").data = torch.zeros(7)


def _change_structure(model: fx.GraphModule) -> None:
    model.register_buffer("target", torch.tensor([-1, 2]))
    model.meta["onnx"].tensors["target"] = Source(TensorKey("constant", "target"), (2,))


def test_a_tensor_of_other_dimensions_does_not_fit() -> None:
    source = Source(TensorKey("initializer", "w"), (2, 3), (Permuted((1, 0)),))
    assert source.to_onnx(torch.zeros(3, 2)).shape == (2, 3)
    with pytest.raises(InputError, match=r"shape \[6\] does not fit initializer 'w' of shape \[2, 3\]"):
        source.to_onnx(torch.zeros(6))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_lose_a_tensor, "no tensor '.*bias' any more, which is initializer 'fc_b'"),
        (_resize, "shape .7. does not fit initializer 'fc_b' of shape .5."),
        (_change_structure, "constant 'target' was changed, but .* not a weight"),
    ],
)
def test_a_model_that_is_no_longer_the_file(tmp_path: Path, spoil: object, message: str) -> None:
    model = import_onnx(save(net(), tmp_path / "original.onnx"))
    spoil(model)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        write_back(model, tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()


def test_expanded_model_is_to_be_folded_first(tmp_path: Path) -> None:
    student = train(expand(import_onnx(save(net(), tmp_path / "original.onnx")), "conv(k) + conv(1)"))
    with pytest.raises(InputError, match="fold it first"):
        write_back(student, tmp_path / "new.onnx")
    write_back(fold(student), tmp_path / "new.onnx")


@pytest.mark.parametrize(
    "model", [nn.Linear(1, 1), fx.symbolic_trace(nn.Linear(1, 1))], ids=["module", "graph"]
)
def test_a_model_from_elsewhere(tmp_path: Path, model: nn.Module) -> None:
    with pytest.raises(InputError, match=r"not loaded from an ONNX file.*load the deployed .onnx"):
        write_back(model, tmp_path / "new.onnx")


def test_a_copy_writes_back_too_and_the_original_file_is_not_needed(tmp_path: Path) -> None:
    original = save_external(net(), tmp_path / "original.onnx")
    model = deepcopy(import_onnx(original))
    original.unlink()
    (tmp_path / "weights.bin").unlink()
    write_back(model, tmp_path / "new.onnx")
    onnx.load(tmp_path / "new.onnx")


def test_a_changed_graph_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = save(net(), tmp_path / "original.onnx")
    (tmp_path / "new.onnx").write_bytes(b"old")
    room = import_module("reparam_kit.onnx.write_back")
    parse = room.parse_onnx

    def parse_another(payload: bytes, name: str) -> ModelProto:
        model = parse(payload, name)
        if name.endswith("new.onnx"):
            model.graph.node[1].op_type = "ConvInteger"
        return model

    monkeypatch.setattr(room, "parse_onnx", parse_another)
    with pytest.raises(VerificationError, match=r"node\[Conv_1\].op_type changed: Conv -> ConvInteger"):
        write_back(import_onnx(original), tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == b"old"
