"""Training, validation and test set of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.roi import Roi
from anomaly_tf.data.roles import Roles


@dataclass(frozen=True)
class Split:
    """Three disjoint sets, for training, for the selection of an epoch, and for the final test.

    Attributes:
        train: Training set.
        validation: Validation set, split from the training files.
        test: Test set.
        roles: The role of each class.
        class_names: Name of each class number in the three sets.
        masks: Test file to the file of its mask, which marks the anomaly.
        roi: The regions of the images that count; None: everything.
        left_out: Lines for the user on the images that are in no set, and why.
        refined: Training images that `--refine` leaves out of training, bool `(N,)`; None: none.
    """

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    roles: Roles
    class_names: tuple[str, ...]
    masks: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    roi: Roi | None = None
    refined: np.ndarray | None = None

    @property
    def learnt(self) -> LabelledImages:
        """The training set without the images that `--refine` leaves out."""
        return self.train if self.refined is None else self.train.take(~self.refined)

    @property
    def hidden(self) -> np.ndarray:
        """The anomalies among the training images that are labelled normal, bool `(N,)`."""
        return (self.train.labels == 0) & ~np.isin(self.train.classes, self.roles.normal)

    @property
    def own_files(self) -> list[str]:
        """Paths of the images of all sets; none if they are not files."""
        return [file for part in (self.train, self.validation, self.test) for file in part.files]

    @property
    def judged(self) -> np.ndarray:
        """The test images that the protocol's metrics use, bool `(N,)`.

        If there are unseen anomaly classes, the seen ones are excluded.
        """
        return ~np.isin(self.test.classes, self.roles.seen if self.roles.unseen else ())
