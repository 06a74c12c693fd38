"""Pretrained networks ("backbones"), frozen, which map images to feature maps."""

from __future__ import annotations

import keras
from keras import KerasTensor, layers

from anomaly_tf.networks import efficientnet_lite
from anomaly_tf.networks.backbone_names import DEFAULT_BACKBONE, require_stages
from anomaly_tf.networks.efficientnet_lite import Convolution
from anomaly_tf.networks.keras_applications import application


def build_backbone(
    name: str, image_shape: tuple[int, int, int], stages: tuple[int, ...]
) -> keras.Model:
    """A frozen network of plain Keras layers, up to the deepest of the requested stages.

    Args:
        name: Name in `backbone_names.BACKBONES`.
        image_shape: Height, width and channels of the images: 3, or 1, which is repeated.
        stages: Numbers of stages, from 1, in any order.

    Returns:
        Model `backbone` from images `(N, H, W, C)`, float32 in [-1, 1], to a list of feature maps
        `(N, ceil(H / stride), ceil(W / stride), channels)`, one for each of `stages`. For a single
        stage Keras gives the map itself when the model runs, and the list in a functional model.

    Raises:
        UserError: If the weights are missing or damaged, or cannot be downloaded.
        ValueError: If the name, the shape or a stage is wrong.
    """
    require_stages(name, stages)
    if len(image_shape) != 3 or image_shape[-1] not in (1, 3):
        raise ValueError(f"images must be (H, W, 1) or (H, W, 3); got {image_shape}")
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # the functions of Keras have no argument for it
    try:
        image = x = keras.Input(image_shape, name="images")
        if image_shape[-1] == 1:
            x = layers.Concatenate(name="rgb")([x, x, x])
        default = name == DEFAULT_BACKBONE
        outputs = _efficientnet_lite0(x, max(stages)) if default else application(name, x)
        model = keras.Model(image, [outputs[stage] for stage in stages], name="backbone")
    finally:
        keras.config.set_dtype_policy(policy)
    model.trainable = False
    return model


def _efficientnet_lite0(x: KerasTensor, deepest: int) -> dict[int, KerasTensor]:
    """Outputs of the stages up to the deepest one, by number; no activation follows them."""
    weights = efficientnet_lite.load_weights()

    def convolved(x: KerasTensor, convolution: Convolution) -> KerasTensor:
        name, stride = convolution.name, convolution.stride
        sizes = {"kernel_size": convolution.kernel[:2], "strides": stride, "padding": "same"}
        if convolution.depthwise:
            layer = layers.DepthwiseConv2D(**sizes, depthwise_initializer="zeros", name=name)
        else:
            filters = convolution.kernel[3]
            layer = layers.Conv2D(filters, **sizes, kernel_initializer="zeros", name=name)
        x = layer(x)
        layer.set_weights([weights[f"{name}_kernel"], weights[f"{name}_bias"]])
        return layers.ReLU(6.0, name=f"{name}_relu")(x) if convolution.relu else x

    # (p - 127) / 128 for pixels p from 0 to 255
    x = layers.Rescaling(127.5 / 128, 0.5 / 128, name="rescaling")(x)
    x = convolved(x, efficientnet_lite.STEM)
    outputs = {}
    for stage in range(1, deepest + 1):
        for number, block in enumerate(efficientnet_lite.blocks(stage), 1):
            before = x
            for convolution in block:
                x = convolved(x, convolution)
            if x.shape == before.shape:
                x = layers.Add(name=f"stage{stage}_block{number}_add")([x, before])
        outputs[stage] = x
    return outputs
