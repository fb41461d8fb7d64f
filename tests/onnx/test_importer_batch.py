"""A batch that the file fixes is freed: each image gets what the file alone gives it, whatever the operators are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_text import Weights, load, run
from torch import Tensor, fx

from reparam_kit import expand, inspect
from reparam_kit.errors import InputError

random = np.random.default_rng(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def alone(path: Path, chunks: tuple[Tensor, ...]) -> list[list[Tensor]]:
    """What onnxruntime gives for each of the file's batches."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name
    return [list(map(torch.as_tensor, session.run(None, {name: chunk.numpy()}))) for chunk in chunks]


def joined(parts: list[Tensor], like: Tensor) -> Tensor:
    """Results of single batches along the dimension that makes them ``like`` the result for all."""
    if not parts[0].dim():
        return torch.stack(parts)
    for dim in range(parts[0].dim()):
        whole = torch.cat(parts, dim)
        if whole.shape == like.shape and all(
            torch.allclose(a.float(), b.float(), 1e-4, 1e-4) for a, b in zip(whole, like, strict=True)
        ):
            return whole
    return torch.cat(parts)


def assert_each_alone(model: fx.GraphModule, path: Path, x: Tensor, batch: int = 1) -> None:
    chunks = torch.split(x, batch)
    expected = alone(path, chunks)
    for chunk, of_file in zip(chunks, expected, strict=True):
        for found, wanted in zip(run(model, chunk), of_file, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    together = run(model, x)
    for found, parts in zip(together, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(found, joined(list(parts), found), rtol=1e-4, atol=1e-4)


def integers(nodes: str) -> dict[str, np.ndarray]:
    """Those that stand in quotes: ``"0,1"``, ``"0,"``, or ``"0"``, which is no vector."""
    texts = [text for text in nodes.split('"')[1::2] if text[-1:] in "0123456789,"]
    arrays = {text: np.array(text.strip(",").split(","), np.int64) for text in texts}
    return {text: array if "," in text else array.reshape(()) for text, array in arrays.items()}


# Operators along an axis, or all of them: the nodes with A for the axis. x is [B, 4, 4, 4], so that no size tells.
ALONG = {
    "mean": "y = ReduceMean <axes = [@]> (x)",
    "mean, dropped": "y = ReduceMean <axes = [@], keepdims = 0> (x)",
    "max and height": "y = ReduceMax <axes = [@, 2]> (x)",
    "norm, dropped": "y = ReduceL2 <axes = [@], keepdims = 0> (x)",
    "sum by input": 'y = ReduceSum (x, "@,")',
    "sum of squares": "y = ReduceSumSquare <axes = [@]> (x)",
    "product": "y = ReduceProd <axes = [@], keepdims = 0> (x)",
    "softmax": "y = Softmax <axis = @> (x)",
    "log softmax": "y = LogSoftmax <axis = @> (x)",
    "arg max": "m = ArgMax <axis = @> (x) y = Cast <to = 1> (m)",
    "arg max, dropped": "m = ArgMax <axis = @, keepdims = 0> (x) y = Cast <to = 1> (m)",
    "cumulative": 'y = CumSum (x, "@")',
    "normalised": "y = LpNormalization <axis = @> (x)",
    "slice": 'y = Slice (x, "0,", "1,", "@,")',
    "slice backwards": 'y = Slice (x, "-1,", "-9,", "@,", "-1,")',
    "gather one": 'y = Gather <axis = @> (x, "0")',
    "gather": 'y = Gather <axis = @> (x, "0,0,-1")',
    "concat": "r = Relu (x) y = Concat <axis = @> (x, r)",
    "concat a constant": "y = Concat <axis = @> (x, k)",
    "split": "c = Concat <axis = @> (x, x) a, b = Split <axis = @> (c) y = Sub (a, b)",
    "squeezed and back": 'r = ReduceMean <axes = [@]> (x) s = Squeeze (r, "@,") u = Unsqueeze (s, "@,") y = Mul (x, u)',
    "unsqueezed": 'y = Unsqueeze (x, "@,")',
    "flatten": "y = Flatten <axis = @> (x)",
    "flatten, to the last": "f = Flatten <axis = @> (x) y = Softmax (f)",
    "padded": "y = Pad (x, pads)",
    "reflected": 'y = Pad <mode = "edge"> (x, pads)',
    "tiled": "y = Tile (x, repeats)",
    "expanded": "r = ReduceMean <axes = [@]> (x) y = Expand (r, whole)",
    "by the mean": "r = ReduceMean <axes = [@], keepdims = 1> (x) y = Div (x, r)",
    "by the mean of all": "r = ReduceMean <keepdims = 0> (x) d = Sub (x, r) y = Mul (d, d)",
    "by the norm of all": "r = ReduceL2 <keepdims = 1> (x) y = Div (x, r)",
    "by the number of rows": 's = Shape (x) n = Gather (s, "@") f = Cast <to = 1> (n) y = Div (x, f)',
    "by the number of entries": "n = Size (x) f = Cast <to = 1> (n) y = Div (x, f)",
    "with rows of a constant": "y = Add (x, rows)",
    "turned to the front": "t = Transpose <perm = TURNED> (x) y = ReduceSum (t, \"0,\")",
    "turned and flat": 't = Transpose <perm = TURNED> (x) y = Reshape (t, "-1,8")',
    "turned, flat and back": 't = Transpose <perm = TURNED> (x) f = Reshape (t, "-1,4") g = Softmax <axis = 0> (f)'
    " y = Reshape (g, whole)",
    "multiplied by its mirror": "t = Transpose <perm = [1,0,3,2]> (x) y = MatMul (t, t)",
    "first and by itself": 'a = Slice (x, "0,", "1,", "@,") b = Mul (a, a) y = Mul (x, b)',
    "picked by position": 'm = ArgMax <axis = @> (x) f = Cast <to = 1> (m) y = Add (x, f)',
    "where": 'z = ReduceMax <axes = [@]> (x) c = Less (z, x) d = Equal (z, x) y = Where (d, x, z)',
}  # fmt: skip


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 3])
@pytest.mark.parametrize("case", ALONG)
def test_an_operator_along_an_axis(case: str, axis: int, batch: int, path: Path) -> None:
    turned = [axis, *(d for d in (2, 1, 3, 0) if d != axis)]
    nodes = ALONG[case].replace("TURNED", str(turned).replace(" ", "")).replace("@", str(axis))
    sizes = [batch, 4, 4, 4]
    at = [int(dim == axis) for dim in range(4)]
    values: Weights = {
        "k": random.standard_normal(sizes).astype(np.float32),
        "pads": np.array([*at, 0, *at[1:]], np.int64),
        "repeats": np.array([1 + n for n in at]),
        "whole": np.array(sizes),
        "rows": random.standard_normal([3 if axis == 0 and batch == 1 else batch, 4, 4, 4]).astype(
            np.float32
        ),
    }
    used = {name: value for name, value in values.items() if name in nodes}
    text = f"net (float[{batch},4,4,4] x) => (float y) {{ {nodes} }}"
    model = load(path, text, {**integers(nodes), **used})
    assert_each_alone(model, path, torch.rand(3 * batch, 4, 4, 4) + 0.5, batch)


NETS = {
    "SCRFD's heads": """c = Conv <pads = [1,1,1,1]> (x, W) t = Transpose <perm = [2,3,0,1]> (c)
        r = Reshape (t, "-1,4") y = Sigmoid (r)""",
    "YOLO's head": """c = Conv (x, W1) r = Reshape (c, "1,2,6,36") t = Transpose <perm = [0,1,3,2]> (r)
        a, b = Split <axis = 3> (t, "2,4") s = Sigmoid (a) k = Concat <axis = 3> (s, b) y = Reshape (k, "1,-1,6")""",
    "boxes of the first image": """c = Conv (x, W1) f = Gather <axis = 0> (c, "0") t = Transpose <perm = [1,2,0]> (f)
        r = Reshape (t, "-1,4") s = ReduceSum (r, "1,") u = Unsqueeze (s, "1,") y = Div (r, u)""",
    "channel shuffle with the batch left out": """c = Conv (x, W1) a = Reshape (c, "6,2,36")
        t = Transpose <perm = [1,0,2]> (a) b = Reshape (t, "2,-1,6,6,6") k = Gather <axis = 0> (b, "0")
        l = Gather <axis = 0> (b, "1") p = Sub (k, l) y = Conv (p, W12)""",
    "LPRNet": """c = Conv (x, W1) q = Mul (c, c) m = ReduceMean <keepdims = 0> (q) d = Div (c, m)
        p = AveragePool <kernel_shape = [2,2]> (x) pq = Mul (p, p) pm = ReduceMean <keepdims = 0> (pq) e = Div (p, pm)
        f = ReduceMean <axes = [2,3]> (e) g = Mul (d, d) h = Add (g, d) i = ReduceMean <axes = [2], keepdims = 0> (h)
        y = Transpose <perm = [2,0,1]> (i)""",
    "a gate": """c = Conv <pads = [1,1,1,1]> (x, W) g = GlobalAveragePool (c) f = Reshape (g, "1,3") k = MatMul (f, M)
        s = Sigmoid (k) u = Reshape (s, "1,3,1,1") y = Mul (c, u)""",
    "attention": """c = Conv (x, W1) r = Reshape (c, "1,12,36") t = Transpose <perm = [2,0,1]> (r)
        v = Reshape (t, "36,3,4") q = Transpose <perm = [1,0,2]> (v) qt = Transpose <perm = [0,2,1]> (q)
        a = MatMul (q, qt) s = Softmax (a) o = MatMul (s, q) ot = Transpose <perm = [1,0,2]> (o)
        y = Reshape (ot, "36,1,12")""",
    "an embedding over its norm": """g = GlobalAveragePool (x) f = Squeeze (g) n = ReduceL2 <keepdims = 0> (f)
        e = Div (f, n) y = MatMul (e, M)""",
    "a vector in a layer": """g = GlobalAveragePool (x) f = Squeeze (g) e = MatMul (f, M) s = Softmax <axis = 0> (e)
        u = Unsqueeze (s, "0,") y = Gemm (u, M)""",
    "a net of one number": "c = Conv (x, W) y = ReduceMax <keepdims = 0> (c)",
    "weights made of the image": """g = ReduceMean <axes = [2,3]> (x) t = Transpose <perm = [1,0,2,3]> (g)
        e = Mul (t, t) k = Transpose <perm = [1,0,2,3]> (e) y = Conv (x, k)""",
    "points of the image": 'y = GatherND (x, points)',
    "resized by its own size": """s = Shape (x) h = Slice (s, "2,", "4,") d = Mul (h, "2")
        n = Concat <axis = 0> ("1,3,", d) y = Resize <mode = "linear"> (x, , , n)""",
    "flat before the layer": 'f = Reshape (x, "-1,36") y = MatMul (f, M36)',
    "a class token": """r = Reshape (x, "1,3,36") y = Concat <axis = 2> (r, token)""",
    "a mask of the image": """m = ReduceMean <axes = [0,1,2,3], keepdims = 1> (x) b = Less (m, x) f = Cast <to = 1> (b)
        y = Mul (f, x)""",
    "a clip by the image": "l = ReduceMean <keepdims = 0> (x) y = Clip (x, l)",
    "norms": """i = InstanceNormalization (x, S, S) l = LayerNormalization <axis = 3> (i, S6) n = LRN <size = 3> (l)
        y = Transpose <perm = [3,1,2,0]> (n)""",
    "an old softmax": 'f = Flatten <axis = 0> (x) s = Softmax <axis = 1> (f) y = Reshape (s, "3,-1")',
}  # fmt: skip
# Those that run at one size alone, which a file of free sizes does not say.
SIZED = {
    "YOLO's head",
    "channel shuffle with the batch left out",
    "attention",
    "flat before the layer",
    "a class token",
    "norms",
}
NET_WEIGHTS: Weights = {
    "W": (3, 3, 3, 3),
    "W1": (12, 3, 1, 1),
    "W12": (2, 6, 1, 1),
    "M": (3, 3),
    "M36": (36, 2),
    "S": (3,),
    "S6": (6,),
    "token": (1, 3, 1),
    "points": np.array([[0, 1, 2], [0, 0, 5]]),
}


CASES = [(case, free) for case in NETS for free in (False, True) if not free or case not in SIZED]


@pytest.mark.parametrize(("case", "free"), CASES)
def test_a_net_that_works_across_its_batch(case: str, free: bool, path: Path) -> None:
    nodes = NETS[case]
    sizes = "1,3,H,W" if free else "1,3,6,6"
    used = {
        name: value
        for name, value in NET_WEIGHTS.items()
        if name in nodes.replace("(", " ").replace(")", " ")
    }
    text = f"net (float[{sizes}] x) => (float y) {{ {nodes} }}"
    model = load(path, text, {**integers(nodes), **used})
    x = torch.randn(3, 3, 6, 6) * torch.tensor([1.0, 3.0, 9.0]).reshape(3, 1, 1, 1)
    assert_each_alone(model, path, x)
    assert_each_alone(fx.symbolic_trace(model), path, x)
    x.requires_grad_()
    rows = [torch.autograd.grad(model(row).float().square().sum(), row)[0] for row in torch.split(x, 1)]
    torch.testing.assert_close(
        torch.autograd.grad(model(x).float().square().sum(), x)[0], torch.cat(rows), rtol=1e-4, atol=1e-3
    )


def test_sites_and_batch_norms_are_found_in_a_freed_net(path: Path) -> None:
    text = """net (float[1,3,6,6] x) => (float y) { c = Conv (x, w) b = BatchNormalization (c, v, s, s, v)
        f = Gather <axis = 0> (b, "0") y = ReduceMean <axes = [1,2], keepdims = 0> (f) }"""
    model = load(path, text, {"w": (3, 3, 3, 3), "s": (3,), "v": np.ones(3, np.float32), "0": np.array(0)})
    [site] = inspect(model)
    assert (site.calls, site.batch_norm, site.reason) == (1, "b", None)
    x = torch.randn(4, 3, 6, 6)
    assert_each_alone(expand(model).eval(), path, x)


def test_a_batch_of_several_takes_whole_batches_where_rows_mix(path: Path) -> None:
    text = "net (float[2,3] x) => (float[1,3] y) { y = ReduceMax <axes = [0]> (x) }"
    model = load(path, text)
    assert_each_alone(model, path, torch.randn(6, 3), 2)
    with pytest.raises(InputError, match="takes 2 images at a time, and 3 are given"):
        model(torch.randn(3, 3))
    apart = load(path, "net (float[2,3] x) => (float[2,3] y) { y = Softmax (x) }")
    assert run(apart, torch.randn(3, 3))[0].shape == (3, 3)


# What keeps the rows of a batch of @ apart. x is [@, 4, 2, 2].
APART = {
    "flatten": "f = Flatten <axis = 1> (x) y = Gemm (f, M16)",
    "flatten from the last": "f = Flatten <axis = -3> (x) y = Gemm (f, M16)",
    "reshape to the batch": 'f = Reshape (x, "@,-1") y = Gemm (f, M16)',
    "reshape to the rest": 'f = Reshape (x, "-1,16") y = Gemm (f, M16)',
    "reshape to all": 'f = Reshape (x, "@,16") y = MatMul (f, M16)',
    "reshape as it was": 'f = Reshape (x, "0,-1") y = MatMul (f, M16)',
    "reshape to more": 'r = Reshape (x, "@,2,2,4") t = Transpose <perm = [0,2,1,3]> (r) y = Reshape (t, "@,4,-1")',
    "reshape by its shape": """s = Shape (x) n = Slice (s, "0,", "1,") z = Concat <axis = 0> (n, "-1,")
        f = Reshape (x, z) y = Gemm (f, M16)""",
    "reshape by its number": """n = Size (x) d = Div (n, "16,") z = Concat <axis = 0> (d, "16,")
        f = Reshape (x, z) y = Gemm (f, M16)""",
    "flat and back": 'f = Reshape (x, "-1,") r = Relu (f) b = Reshape (r, "@,16") y = Softmax (b)',
    "a row and back": 'f = Reshape (x, "1,-1") r = Relu (f) b = Reshape (r, "@,16") y = Gemm (b, M16)',
    "a row for each channel and back": 'f = Reshape (x, "-1,4") m = MatMul (f, M4) y = Reshape (m, "@,-1")',
    "a front dimension and back": 'u = Unsqueeze (x, "0,") r = Relu (u) s = Squeeze (r, "0,") y = Softmax (s)',
    "unsqueezed": 'u = Unsqueeze (x, "1,") r = ReduceSum (u, "3,4,") y = Squeeze (r, "1,3,")',
    "pooled and squeezed": 'g = GlobalAveragePool (x) s = Squeeze (g, "2,3,") y = MatMul (s, M4)',
    "pooled and flat": "g = GlobalAveragePool (x) f = Flatten (g) y = Gemm (f, M4)",
    "a gate": """g = GlobalAveragePool (x) f = Reshape (g, "@,4") s = Sigmoid (f) u = Reshape (s, "@,4,1,1")
        y = Mul (x, u)""",
    "normed": 'f = Flatten (x) n = ReduceL2 <axes = [1]> (f) y = Div (f, n)',
}  # fmt: skip

# Those that say so whatever the size of the images is, so that a file may leave it free.
APART_AT_ANY_SIZE = {
    "a row for each channel and back",
    "unsqueezed",
    "pooled and squeezed",
    "pooled and flat",
    "a gate",
    "normed",
}


@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize(
    ("case", "free"), [*((c, False) for c in APART), *((c, True) for c in sorted(APART_AT_ANY_SIZE))]
)
def test_any_number_of_rows_where_they_stay_apart(case: str, free: bool, batch: int, path: Path) -> None:
    """As onnxruntime gives for a batch that other rows fill."""
    nodes = APART[case].replace("@", str(batch))
    sizes = f"{batch},4,H,W" if free else f"{batch},4,2,2"
    weights = {name: shape for name, shape in {"M16": (16, 3), "M4": (4, 3)}.items() if name in nodes}
    model = load(path, f"net (float[{sizes}] x) => (float y) {{ {nodes} }}", {**integers(nodes), **weights})
    for count in range(1, 6):
        x = torch.randn(count, 4, 2, 2)
        filled = torch.cat([x, torch.randn(-count % batch, 4, 2, 2)])
        expected = torch.cat([result for [result] in alone(path, torch.split(filled, batch))])[:count]
        torch.testing.assert_close(run(model, x)[0], expected, rtol=1e-4, atol=1e-5)


MIXED = {
    "flat": 'f = Reshape (x, "1,-1") y = Softmax (f)',
    "fewer rows": 'f = Reshape (x, "4,-1") y = Softmax (f)',
    "turned": 't = Transpose <perm = [1,0,2,3]> (x) f = Reshape (t, "16,-1") y = Softmax (f)',
    "summed": 'f = Flatten (x) y = ReduceSum (f, "0,")',
}


@pytest.mark.parametrize("case", MIXED)
def test_rows_that_mix_are_taken_in_whole_batches(case: str, path: Path) -> None:
    nodes = MIXED[case]
    model = load(path, f"net (float[16,4,2,2] x) => (float y) {{ {nodes} }}", integers(nodes))
    assert_each_alone(model, path, torch.randn(32, 4, 2, 2), 16)
    with pytest.raises(
        InputError, match="mixes the rows of a batch and takes 16 images at a time, and 2 are given"
    ):
        model(torch.randn(2, 4, 2, 2))


def test_a_size_like_the_number_of_rows_is_no_batch(path: Path) -> None:
    for size in (2, 3, 17, 19):
        nodes = 't = Transpose <perm = [1,0,2]> (x) y = Reshape (t, "1,-1")'
        model = load(path, f"net (float[1,{size},4] x) => (float y) {{ {nodes} }}", integers(nodes))
        assert_each_alone(model, path, torch.randn(size, size, 4))


def test_a_batch_that_cannot_be_freed_is_kept(path: Path) -> None:
    """Sizes that depend on the numbers of an image have no common value for several."""
    nodes = 's = ReduceSum (x, "0,1,") c = Cast <to = 7> (s) v = Reshape (c, "1,") y = Expand (k, v)'
    weights: Weights = {**integers(nodes), "k": (1,)}
    model = load(path, f"net (float[1,3] x) => (float y) {{ {nodes} }}", weights)
    assert run(model, torch.ones(1, 3))[0].shape == (3,)
    with pytest.raises(InputError, match="fixes a batch of 1 and cannot do without it, and 2 rows are given"):
        model(torch.ones(2, 3))


STEPS = (
    *("r{0} = Softmax <axis = {1}> ({2})", "m{0} = ReduceMean <axes = [{1}]> ({2}) r{0} = Sub ({2}, m{0})"),
    *("r{0} = Transpose <perm = [{3}]> ({2})", 'r{0} = Reshape ({2}, "{4}")'),
    *("r{0} = Concat <axis = {1}> ({2}, {2})", 'r{0} = Gather <axis = {1}> ({2}, "0,-1")'),
    *("m{0} = ReduceL2 <keepdims = 0> ({2}) r{0} = Mul ({2}, m{0})", 'r{0} = CumSum ({2}, "{1}")'),
    *("r{0} = Relu ({2})", 'r{0} = Slice ({2}, "0,", "1,", "{1},")', 'r{0} = Tile ({2}, "1,2,1,1")'),
    'm{0} = ReduceMax <axes = [{1}], keepdims = 0> ({2}) u{0} = Unsqueeze (m{0}, "{1},") r{0} = Add ({2}, u{0})',
)


@pytest.mark.parametrize("batch", ["1", "N"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_nodes_that_take_one_image_after_the_other_are_told_of(
    count: int, batch: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for a file, on standard error where nobody asked for logs."""
    pairs = "".join(f"d{i} = GatherND (d{i - 1}, at) " for i in range(1, count + 1))
    text = f"""net (float[{batch},3,8,8] x) => (float y) {{
        c = Conv <pads = [1,1,1,1]> (x, w) d0 = Relu (c) {pairs} y = Abs (d{count}) }}"""
    load(path, text, {"w": (4, 3, 3, 3), "at": np.zeros((1, 1), np.int64)})
    found = [record.getMessage() for record in caplog.records]
    if batch == "N" or not count:
        assert not found
    else:
        [line] = found
        assert "image by image, which is slow: in node 'd1' (GatherND)" in line
        assert ("and 1 more" in line) == (count == 2)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_nets(data: st.DataObject, path: Path) -> None:
    batch = data.draw(st.sampled_from([1, 1, 2]))
    nodes, last, sizes = "", "x", [batch, 2, 4, 2]
    for i in range(data.draw(st.integers(2, 6))):
        order = data.draw(st.permutations(range(4)))
        axis = data.draw(st.integers(0, 3))
        total = int(np.prod(sizes))
        first = data.draw(st.sampled_from([n for n in (1, 2, 4, 8) if total % n == 0]))
        second = data.draw(st.sampled_from([n for n in (1, 2, 4) if (total // first) % n == 0]))
        shape = [first, 1, second, -1] if axis % 2 else [first, second, -1, 1]
        step = data.draw(st.sampled_from(STEPS))
        nodes += " " + step.format(i, axis, last, ",".join(map(str, order)), ",".join(map(str, shape)))
        last = f"r{i}"
        sizes = list(load_sizes(path, batch, nodes, last))
    text = f"net (float[{batch},2,4,2] x) => (float {last}) {{ {nodes} }}"
    model = load(path, text, integers(nodes))
    assert_each_alone(model, path, torch.rand(3 * batch, 2, 4, 2) + 0.5, batch)


def load_sizes(path: Path, batch: int, nodes: str, last: str) -> tuple[int, ...]:
    text = f"net (float[{batch},2,4,2] x) => (float {last}) {{ {nodes} }}"
    load(path, text, integers(nodes))
    [[result]] = alone(path, (torch.ones(batch, 2, 4, 2),))
    return tuple(result.shape)
