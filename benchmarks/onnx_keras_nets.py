"""ONNX files as Keras, tf2onnx and skl2onnx write them: the first half of benchmarks/onnx_keras.py.

    python -m benchmarks.onnx_keras_nets FOLDER [NET ...]

needs tensorflow, keras, tf2onnx and skl2onnx, and no torch. Each net becomes FOLDER/MAKER/NET.onnx, with two images
and what the net makes of them in NET.npz beside it. The makers: ``keras-15`` is ``Model.export(format="onnx")``,
``tf2onnx-13`` converts a function, ``tf2onnx-18-nchw`` does so with images as NCHW, and ``skl2onnx-18`` is the one of
scikit-learn. Weights are random, none at 0 or 1 as initialised; BatchNorm statistics are those of made-up images.

Grouped convolutions and the exact gelu of ConvNeXt are missing: tf2onnx 1.17 leaves operators of tensorflow in their
files, which no ONNX runtime knows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from keras import Model, Sequential, activations, applications, layers
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FEATURES = 6

APPLICATIONS = {
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "ResNet50": 64,
    "DenseNet121": 64,
    "NASNetMobile": 64,
    "Xception": 71,
}


def separable() -> Model:
    """Separable and depthwise convolutions; strides over even sizes, which SAME pads at the end only."""
    return Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.SeparableConv2D(12, 5, strides=2, padding="same", depth_multiplier=2),
            layers.BatchNormalization(),
            layers.Activation("swish"),
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.BatchNormalization(scale=False),
            layers.Conv2D(16, 2, padding="same"),
            layers.Activation("hard_sigmoid"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax"),
        ]
    )


def decoder() -> Model:
    """Transposed convolutions and upsampling."""
    return Sequential(
        [
            layers.Input((8, 8, 6)),
            layers.Conv2DTranspose(8, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(0.2),
            layers.UpSampling2D(2, interpolation="nearest"),
            layers.Conv2D(8, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ELU(),
            layers.Conv2DTranspose(4, 2, strides=2, padding="valid"),
            layers.UpSampling2D(2, interpolation="bilinear"),
            layers.Conv2DTranspose(3, 4, strides=2, padding="same", activation="tanh"),
        ]
    )


def dilated() -> Model:
    """Dilated convolutions, full and depthwise, over sizes that the dilation does not divide."""
    return Sequential(
        [
            layers.Input((17, 16, 3)),
            layers.Conv2D(8, 3, dilation_rate=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(8, 3, dilation_rate=(3, 2), padding="valid"),
            layers.Activation(partial(activations.gelu, approximate=True)),
            layers.DepthwiseConv2D(3, dilation_rate=4, padding="same"),
            layers.Activation("mish"),
            layers.Conv2D(4, 1),
        ]
    )


def prelu() -> Model:
    """Slopes for each channel, and for each entry."""
    return Sequential(
        [
            layers.Input((12, 12, 3)),
            layers.Conv2D(8, 3, padding="same"),
            layers.PReLU(shared_axes=[1, 2]),
            layers.ZeroPadding2D(((1, 0), (0, 2))),
            layers.Conv2D(8, 3, strides=3),
            layers.PReLU(),
            layers.Cropping2D(1),
            layers.Flatten(),
            layers.Dense(7),
            layers.PReLU(),
            layers.Dense(5),
        ]
    )


def pools() -> Model:
    """Poolings that SAME pads, squeeze and excitation, and norms other than that of the batch."""
    x = inputs = layers.Input((15, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="softplus")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = layers.GroupNormalization(4)(x)
    gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(2, 1, activation="relu")(gate)
    x = layers.Multiply()([x, layers.Conv2D(8, 1, activation="sigmoid")(gate)])
    x = layers.AveragePooling2D(3, strides=2, padding="same")(x)
    x = layers.LayerNormalization()(x)
    x = layers.Concatenate()([x, layers.Permute((2, 1, 3))(x)])
    return Model(inputs, layers.Dense(5)(layers.GlobalMaxPooling2D()(x)))


def sequence() -> Model:
    """Convolutions over one dimension, also causal ones."""
    return Sequential(
        [
            layers.Input((24, 4)),
            layers.Conv1D(8, 3, padding="causal", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv1D(8, 3, dilation_rate=2, padding="causal"),
            layers.SeparableConv1D(8, 5, strides=2, padding="same"),
            layers.MaxPooling1D(2),
            layers.Activation("selu"),
            layers.Conv1DTranspose(6, 3, strides=2, padding="same"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(5),
        ]
    )


def volume() -> Model:
    """Convolutions over three dimensions."""
    return Sequential(
        [
            layers.Input((8, 8, 8, 2)),
            layers.Conv3D(4, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv3D(4, 2, padding="valid"),
            layers.AveragePooling3D(2, padding="same"),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )


SMALL = {build.__name__: build for build in (separable, decoder, dilated, prelu, pools, sequence, volume)}
PERCEPTRONS: dict[str, Callable[[], Any]] = {
    "MLPClassifier": lambda: MLPClassifier(hidden_layer_sizes=(8, 7), max_iter=500, random_state=0),
    "MLPRegressor": lambda: MLPRegressor(
        hidden_layer_sizes=(8,), activation="tanh", max_iter=2000, random_state=0
    ),
    "scaled": lambda: make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(8, 7), max_iter=2000, random_state=0)
    ),
}


def build(name: str) -> Model:
    """A net of Keras with moved weights and the BatchNorm statistics of made-up images."""
    keras.utils.set_random_seed(0)
    if name in SMALL:
        net = SMALL[name]()
    else:
        shape = (APPLICATIONS[name], APPLICATIONS[name], 3)
        net = getattr(applications, name)(
            input_shape=shape, weights=None, classes=100, classifier_activation=None
        )
    random = np.random.default_rng(0)
    for weight in net.trainable_weights:
        if len(weight.shape) == 1 or weight.name == "alpha":
            weight.assign_add(0.1 * random.standard_normal(weight.shape))
    for layer in net.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0  # the statistics are those of the last batch
    net(images(16, net), training=True)
    return net


def images(count: int, net: Model) -> NDArray[np.float32]:
    """Coloured blobs under noise, in the range of bytes: some nets bring them to another range themselves."""
    _, *size, channels = net.input_shape
    random = np.random.default_rng(count)
    blobs = random.standard_normal((count, *(4 for _ in size), channels))
    for axis, n in enumerate(size, start=1):
        blobs = np.repeat(blobs, -(-n // 4), axis).take(range(n), axis)
    noise = random.standard_normal(blobs.shape)
    return np.clip(128 + 50 * blobs + 20 * noise, 0, 255).astype(np.float32)


def write(name: str, folder: Path) -> None:
    """One net by all of its makers."""
    if name in PERCEPTRONS:
        random = np.random.default_rng(0)
        features = random.standard_normal((64, FEATURES)).astype(np.float32)
        scores = features @ random.standard_normal((FEATURES, 3))
        model = PERCEPTRONS[name]().fit(
            features, scores.argmax(1) if name == "MLPClassifier" else scores[:, 0]
        )
        options = {"zipmap": False} if name == "MLPClassifier" else None
        path = place(folder, "skl2onnx-18", name)
        path.write_bytes(to_onnx(model, features[:1], options=options, target_opset=18).SerializeToString())
        write_examples(path, features[:2], model.predict(features[:2]))
        return
    net = build(name)
    x = images(2, net)
    y = net(x, training=False).numpy()
    path = place(folder, "keras-15", name)
    net.export(path, format="onnx", verbose=False)
    write_examples(path, x, y)
    signature = [tf.TensorSpec((None, *x.shape[1:]), tf.float32, name="image")]
    function = tf.function(
        lambda image: net(image, training=False), input_signature=signature, autograph=False
    )
    path = place(folder, "tf2onnx-13", name)
    tf2onnx.convert.from_function(function, signature, opset=13, output_path=path)
    write_examples(path, x, y)
    if x.ndim == 4:
        path = place(folder, "tf2onnx-18-nchw", name)
        tf2onnx.convert.from_function(
            function, signature, opset=18, inputs_as_nchw=["image"], output_path=path
        )
        write_examples(path, x.transpose(0, 3, 1, 2), y)


def place(folder: Path, maker: str, name: str) -> Path:
    """Where a maker's file of a net goes."""
    (folder / maker).mkdir(parents=True, exist_ok=True)
    return folder / maker / f"{name}.onnx"


def write_examples(path: Path, x: NDArray[Any], y: NDArray[Any]) -> None:
    """Arrays for all inputs of the file, and ``y``, the net's own output.

    What a ``Normalization`` layer has been given stays an input of the file, which nothing reads any more.
    """
    _, *unread = onnx.load(path).graph.input
    others = [
        np.zeros([dim.dim_value for dim in info.type.tensor_type.shape.dim], np.float32) for info in unread
    ]
    np.savez(path.with_suffix(".npz"), x, *others, y=y)


def main() -> None:
    """Write the nets."""
    known = [*SMALL, *PERCEPTRONS, *APPLICATIONS]
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("net", nargs="*", help=", ".join(known))
    arguments = parser.parse_args()
    for name in arguments.net or known:
        write(name, arguments.folder)
        print(name, flush=True)


if __name__ == "__main__":
    main()
