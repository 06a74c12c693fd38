"""Training, validation and test set of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.roles import Roles


@dataclass(frozen=True)
class Split:
    """Three disjoint sets: train on the first, select on the second, score the third once.

    Attributes:
        train: Training set.
        validation: Validation set, cut from the training files.
        test: Test set.
        roles: What each class counts as.
        class_names: Name of each class number in the three sets.
        masks: Test file to the file of its mask, which marks the anomaly.
        left_out: What of the data set is in no set, and why, as lines for the user.
    """

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    roles: Roles
    class_names: tuple[str, ...]
    masks: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def judged(self) -> np.ndarray:
        """Test images that the protocol's metrics count, bool `(N,)`.

        With unseen and seen anomaly classes, the seen ones are left out.
        """
        return ~np.isin(self.test.classes, self.roles.seen if self.roles.unseen else ())
