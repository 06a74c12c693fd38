"""Converts a Keras detector to a LiteRT model of built-in operations, in a given precision."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from anomaly_tf.deploy.detector import Quantization
from anomaly_tf.deploy.litert import SIGNATURE
from anomaly_tf.networks.blocks import depth_to_space


def convert(
    model: keras.Model, batch_size: int, quantization: Quantization, samples: np.ndarray
) -> bytes:
    """Converts a detector to LiteRT.

    Args:
        model: A model from uint8 images `(N, H, W, C)` to a dictionary of outputs.
        batch_size: Images per call. It is fixed, because the runtime is two to twenty times slower
            otherwise.
        quantization: `none`: float32. `float16`: weights stored as float16, computed in float32.
            `dynamic`: weights int8, activations quantised at run time. `int8`: the networks'
            weights and activations int8; the computation of the score from their outputs stays
            float32, because 256 levels are too few to rank images, and so does the first
            convolution, which has few channels and is faster in float32.
        samples: uint8 `(M, H, W, C)`, for the calibration of the activation ranges of int8.

    Returns:
        A model with one signature, `SIGNATURE`, from `images` to the outputs of `model` by name.
    """
    networks, entrance = _innermost_networks(model), _entrance(model)
    model = with_subpixel_convolutions(model)

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return model(images, training=False)

    shape = (batch_size, *model.input_shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        signature = [tf.TensorSpec(shape, tf.uint8, name="images")]
        archive.add_endpoint(SIGNATURE, serve, input_signature=signature)
        archive.write_out(folder, verbose=False)
        if quantization == "int8":
            return _int8(folder, networks, entrance, samples, batch_size)
        converter = _converter(folder)
        if quantization != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantization == "float16":
            converter.target_spec.supported_types = [tf.float16]
        return converter.convert()


def _converter(folder: str) -> tf.lite.TFLiteConverter:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def _int8(
    folder: str,
    networks: list[str],
    entrance: list[str],
    samples: np.ndarray,
    batch_size: int,
) -> bytes:
    """Quantises the operations inside the networks and after their entrance only."""
    with warnings.catch_warnings():
        # It warns of the memory that all tensors take; here only their names are read.
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        floating = Interpreter(
            model_content=_converter(folder).convert(), experimental_preserve_all_tensors=True
        )
    inside, before = _scopes(networks), _scopes(entrance)
    outside = [
        name
        for name in (tensor["name"] for tensor in floating.get_tensor_details())
        if before.search(name) or not inside.search(name)
    ]

    def representative() -> Iterator[list[np.ndarray]]:
        for start in range(0, len(samples) - batch_size + 1, batch_size):
            yield [samples[start : start + batch_size]]

    converter = _converter(folder)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    with warnings.catch_warnings():
        # Only the debugger can keep operations in float; it uses a deprecated interpreter.
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter,
            debug_dataset=representative,
            debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=outside),
        )
        return debugger.get_nondebug_quantized_model()


def _innermost_networks(model: keras.Model) -> list[str]:
    """Names of the models inside a model that contain no further models."""
    inner = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return [name for part in inner for name in _innermost_networks(part)] or [model.name]


def _entrance(model: keras.Model) -> list[str]:
    """Names of the layers up to the first convolution; none if there is no convolution."""
    names = []
    for layer in _layers_in_order(model):
        names.append(layer.name)
        if isinstance(layer, layers.Conv2D):
            return names
    return []


def _layers_in_order(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers_in_order(layer)
        else:
            yield layer


def _scopes(names: list[str]) -> re.Pattern[str]:
    """A pattern for the tensors of layers or models, by the name scopes of Keras."""
    return re.compile(rf"(?:^|/)(?:{'|'.join(map(re.escape, names)) or '(?!)'})(?:_\d+)?/")


def with_subpixel_convolutions(model: keras.Model) -> keras.Model:
    """Replaces the transposed convolutions of a model by equivalent sub-pixel convolutions.

    A transposed 4x4 convolution of stride 2 is equivalent to a 2x2 convolution of the zero-padded
    image to four times the channels, unfolded into 2x2 blocks, with the same weights and the same
    number of multiplications (Shi et al. 2016, Is the deconvolution layer the same as a
    convolutional layer?). LiteRT's CPU kernels compute it in int8 several times faster. A BatchNorm
    and a ReLU that follow, with or without a cropping between them, are fused into it, because they
    would take as long as the convolution.

    Args:
        model: A functional model; a layer after a transposed convolution has no other input.
    """
    norms: dict[str, layers.BatchNormalization] = {}  # by the name of the convolution
    rectified, merged = set(), set()
    chains: dict[int, keras.Layer] = {}  # the convolution of each tensor
    for layer in model.layers:
        if _is_doubling(layer):
            chains[id(layer.output)] = layer
            continue
        if not isinstance(layer, (layers.Cropping2D, layers.BatchNormalization, layers.ReLU)):
            continue
        convolution = chains.get(id(layer.input))
        if convolution is None:
            continue
        if isinstance(layer, layers.ReLU):
            rectified.add(convolution.name)
        else:
            chains[id(layer.output)] = convolution
        if isinstance(layer, layers.BatchNormalization):
            norms[convolution.name] = layer
        if not isinstance(layer, layers.Cropping2D):
            merged.add(layer.name)
    copies = []

    def copy(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return with_subpixel_convolutions(layer)
        if _is_doubling(layer):
            activation = "relu" if layer.name in rectified else None
            return _subpixel_convolution(layer, norms.get(layer.name), activation)
        if layer.name in merged:
            # A model, because `Identity` itself refuses the keyword arguments of BatchNorm.
            same = keras.Input(layer.input.shape[1:])
            return keras.Model(same, layers.Identity()(same), name=layer.name)
        copies.append((layer, type(layer).from_config(layer.get_config())))
        return copies[-1][1]

    changed = keras.models.clone_model(model, clone_function=copy)
    for old, new in copies:
        if isinstance(old, keras.Layer):  # operations are copied as well, but have no weights
            new.set_weights(old.get_weights())
    return changed


def _is_doubling(layer: keras.Layer) -> bool:
    return isinstance(layer, layers.Conv2DTranspose) and (
        layer.kernel_size,
        layer.strides,
        layer.padding,
        layer.dilation_rate,
    ) == ((4, 4), (2, 2), "same", (1, 1))


def _subpixel_convolution(
    layer: layers.Conv2DTranspose, norm: layers.BatchNormalization | None, activation: str | None
) -> keras.Model:
    kernel = keras.ops.convert_to_numpy(layer.kernel)  # (4, 4, filters, channels)
    filters, channels = kernel.shape[2:]
    bias = keras.ops.convert_to_numpy(layer.bias) if layer.use_bias else np.zeros(filters)
    if norm is not None:
        gamma, beta, mean, variance = norm.get_weights()
        factor = gamma / np.sqrt(variance + norm.epsilon)
        kernel, bias = kernel * factor[:, np.newaxis], (bias - mean) * factor + beta
    # Pixels 2i - 1 and 2i of the output depend on pixels i - 1 and i of the input. Pixel j of the
    # input contributes to pixel 2j + t - 1 of the output with tap t.
    taps = [[2, 0], [3, 1]]  # [pixel of the output][pixel of the input]
    blocks = np.zeros((2, 2, channels, 2, 2, filters), np.float32)
    for row, rows in enumerate(taps):
        for column, columns in enumerate(taps):
            blocks[:, :, :, row, column] = kernel[np.ix_(rows, columns)].transpose(0, 1, 3, 2)
    image = keras.Input(layer.input.shape[1:])
    convolution = layers.Conv2D(4 * filters, 2, activation=activation)
    x = depth_to_space(convolution(layers.ZeroPadding2D(1)(image)))
    changed = keras.Model(image, layers.Cropping2D(1)(x), name=layer.name)
    convolution.set_weights([blocks.reshape(2, 2, channels, 4 * filters), np.tile(bias, 4)])
    return changed
