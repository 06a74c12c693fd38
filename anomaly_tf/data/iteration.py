"""Options of tf.data that all pipelines share."""

from __future__ import annotations

import tensorflow as tf


def untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Turns off autotuning: the parallel parts use all cores from the first batch on.

    The thread that tunes them (TensorFlow 2.21) sleeps for longer and longer, up to a minute, and
    the end of an iteration sometimes waits until it wakes; on one thread nearly always.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)
