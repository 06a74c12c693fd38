"""Configuration of a run: typed, frozen and checked before anything is written.

Values come from three places, and later ones win: the defaults of the dataclasses, a YAML file
(`configs/<approach>.yaml` or `--config FILE`), the command line. The resolved configuration is
saved with the run, so that every run is documented. Nothing here imports TensorFlow: `--help` and
the message for a wrong option appear immediately. Options of a single approach are in
`approaches/<name>/options.py`.
"""

from anomaly_tf.config.checked import Checked, number
from anomaly_tf.config.run import (
    ALL_CLASSES_NORMAL,
    LARGEST_SIDE,
    SMALLEST_SIDE,
    BalancedConfig,
    Config,
    LearnsFrom,
    NormalImagesConfig,
    NormalOnlyConfig,
    OnePassConfig,
    flatten,
    plain,
    save_config,
    with_options,
)
from anomaly_tf.config.score_map import (
    GRAD_CAM,
    MAX_WHOLE,
    ScoreMap,
    ScoreRule,
    reconstruction_map,
)
from anomaly_tf.config.sections import (
    AdversarialTrainingConfig,
    BalancedSamplingConfig,
    CorruptionConfig,
    FolderConfig,
    HoldOutConfig,
    OnePassTrainingConfig,
    Protocol,
    SamplingConfig,
    ThresholdConfig,
    TrainingConfig,
    UnseenConfig,
)

__all__ = [
    "ALL_CLASSES_NORMAL",
    "GRAD_CAM",
    "LARGEST_SIDE",
    "MAX_WHOLE",
    "SMALLEST_SIDE",
    "AdversarialTrainingConfig",
    "BalancedConfig",
    "BalancedSamplingConfig",
    "Checked",
    "Config",
    "CorruptionConfig",
    "FolderConfig",
    "HoldOutConfig",
    "LearnsFrom",
    "NormalImagesConfig",
    "NormalOnlyConfig",
    "OnePassConfig",
    "OnePassTrainingConfig",
    "Protocol",
    "SamplingConfig",
    "ScoreMap",
    "ScoreRule",
    "ThresholdConfig",
    "TrainingConfig",
    "UnseenConfig",
    "flatten",
    "number",
    "plain",
    "reconstruction_map",
    "save_config",
    "with_options",
]
