"""How tf.data's batches are made, whatever is in them."""

from __future__ import annotations

import tensorflow as tf


def untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The same batches, their parallel parts as wide as the processor from the first one on.

    What tunes that width (tensorflow 2.21) sleeps ever longer, up to a minute, and now and then the
    end of the iteration waits until it wakes; on one thread nearly always.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)
