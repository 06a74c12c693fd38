"""Options of tf.data for all pipelines."""

from __future__ import annotations

import tensorflow as tf


def untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Turns off autotuning, so that parallel calls use all cores from the first batch on.

    The autotuning thread of TensorFlow 2.21 sleeps for increasing times, up to a minute, and the
    end of an iteration sometimes waits for it; with one thread it nearly always does.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)
