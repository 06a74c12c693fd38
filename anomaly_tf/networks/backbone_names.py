"""Names and stages of the pretrained networks ("backbones"); imports no TensorFlow.

A stage is a run of layers whose outputs have one size and one number of channels; stage 1 is the
nearest to the image. Sources: EfficientNet-Lite0, the variant without squeeze-and-excitation of
M. Tan, Q. Le: EfficientNet, ICML 2019; M. Sandler et al.: MobileNetV2, CVPR 2018; K. He et al.:
Deep residual learning, CVPR 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_BACKBONE = "efficientnet_lite0"


@dataclass(frozen=True)
class Stage:
    """Output of a stage.

    Attributes:
        stride: Pixels of the image per position of the feature map, along both axes.
        channels: Number of its channels.
    """

    stride: int
    channels: int


def _stages(strides: tuple[int, ...], channels: tuple[int, ...]) -> tuple[Stage, ...]:
    return tuple(map(Stage, strides, channels))


# Stages 1, 2, ... of each backbone. The weights of all but the default are downloaded by Keras.
BACKBONES = {
    DEFAULT_BACKBONE: _stages((2, 4, 8, 16, 16, 32, 32, 32), (16, 24, 40, 80, 112, 192, 192, 320)),
    "mobilenet_v2": _stages((2, 4, 8, 16, 16, 32, 32), (16, 24, 32, 64, 96, 160, 320)),
    "resnet50": _stages((4, 8, 16, 32), (256, 512, 1024, 2048)),
}


def require_stages(name: str, stages: tuple[int, ...]) -> None:
    """Checks the name of a backbone and numbers of its stages.

    Raises:
        ValueError: If the name is unknown, or the stages are not different numbers from 1 to the
            number of stages that it has.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}; got {name!r}")
    count = len(BACKBONES[name])
    valid = all(type(stage) is int and 1 <= stage <= count for stage in stages)
    if not stages or not valid or len(set(stages)) < len(stages):
        raise ValueError(
            f"stages of backbone {name} must be different numbers from 1 to {count}, at least one; "
            f"got {stages}"
        )


def stage_of(name: str, stride: int) -> int:
    """Number of the stage that describes patches at a stride.

    Of several stages it is the last one; of those of stride 32 the first, because the others hold
    most of a network's weights.

    >>> [stage_of("efficientnet_lite0", stride) for stride in (4, 8, 16, 32)]
    [2, 3, 5, 6]

    Raises:
        ValueError: If the backbone has no such stage.
    """
    found = [n for n, stage in enumerate(BACKBONES[name], 1) if stage.stride == stride]
    if not found:
        strides = sorted({stage.stride for stage in BACKBONES[name]})
        raise ValueError(f"stride of backbone {name} must be one of {strides}; got {stride}")
    return found[0 if stride == 32 else -1]
