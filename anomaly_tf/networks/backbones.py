"""Pretrained networks ("backbones"), frozen, which map images to feature maps."""

from __future__ import annotations

import keras
from keras import KerasTensor, layers

from anomaly_tf.networks import efficientnet_lite
from anomaly_tf.networks.backbone_names import require_stages
from anomaly_tf.networks.efficientnet_lite import Convolution


def build_backbone(
    name: str, image_shape: tuple[int, int, int], stages: tuple[int, ...]
) -> keras.Model:
    """A frozen network of plain Keras layers, up to the deepest of the requested stages.

    Args:
        name: Name in `backbone_names.BACKBONES`.
        image_shape: Height, width and channels (1 or 3) of the images.
        stages: Numbers of stages, from 1, in any order.

    Returns:
        Model `backbone` from images `(N, H, W, C)`, float32 in [-1, 1], to a list of feature maps
        `(N, ceil(H / stride), ceil(W / stride), channels)`, one for each of `stages`. A grey image
        is repeated to three channels.

    Raises:
        UserError: If the weights are missing or damaged.
        ValueError: If the name, the shape or a stage is wrong.
    """
    require_stages(name, stages)
    if image_shape[-1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels; got shape {image_shape}")
    image = x = keras.Input(image_shape, dtype="float32", name="images")
    if image_shape[-1] == 1:
        x = layers.Concatenate(dtype="float32", name="rgb")([x, x, x])
    model = keras.Model(image, _efficientnet_lite0(x, stages), name="backbone")
    model.trainable = False
    return model


def _efficientnet_lite0(x: KerasTensor, stages: tuple[int, ...]) -> list[KerasTensor]:
    """Outputs of stages; each is that of the last projection, which no activation follows."""
    weights = efficientnet_lite.load_weights()

    def convolved(x: KerasTensor, convolution: Convolution) -> KerasTensor:
        name, stride = convolution.name, convolution.stride
        sizes = {"kernel_size": convolution.kernel[:2], "strides": stride, "padding": "same"}
        names = {"name": name, "dtype": "float32"}
        if convolution.depthwise:
            layer = layers.DepthwiseConv2D(**sizes, depthwise_initializer="zeros", **names)
        else:
            filters = convolution.kernel[3]
            layer = layers.Conv2D(filters, **sizes, kernel_initializer="zeros", **names)
        x = layer(x)
        layer.set_weights([weights[f"{name}_kernel"], weights[f"{name}_bias"]])
        return layers.ReLU(6.0, name=f"{name}_relu", dtype="float32")(x) if convolution.relu else x

    # (p - 127) / 128 for pixels p from 0 to 255
    x = layers.Rescaling(127.5 / 128, 0.5 / 128, dtype="float32", name="rescaling")(x)
    x = convolved(x, efficientnet_lite.STEM)
    outputs = {}
    for stage in range(1, max(stages) + 1):
        for number, block in enumerate(efficientnet_lite.blocks(stage), 1):
            before = x
            for convolution in block:
                x = convolved(x, convolution)
            if number > 1:
                name = f"stage{stage}_block{number}_add"
                x = layers.Add(dtype="float32", name=name)([x, before])
        outputs[stage] = x
    return [outputs[stage] for stage in stages]
