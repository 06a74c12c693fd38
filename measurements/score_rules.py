"""Score rules that the studies compare, on one training each and on validation images only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from anomaly_tf.config import Config
from anomaly_tf.data.pipelines import scale
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.sources import open_dataset
from anomaly_tf.data.split import Split
from anomaly_tf.networks.losses import absolute_error, squared_error
from anomaly_tf.networks.sizes import ConvolutionalNetworks
from anomaly_tf.training.setup import TrainingSetup

Aurocs = dict[str, float]
# Length of the latent vector, and standard deviation of the noise to remove, where white is 1.
VAE_VARIANTS = ((16, 0.0), (32, 0.0), (64, 0.0), (32, 0.3))


def of_dual_gan(config: Config) -> Aurocs:
    """AUROCs of errors, latents, discriminators and combinations, for one training of `sota`."""
    model, split = _trained(config)
    encoder = model.averaged.get_layer("encoder")

    def rules(images: tf.Tensor) -> dict[str, tf.Tensor]:
        rebuilt = model.averaged(images, training=False)
        error = tf.abs(images - rebuilt)
        mirrored = images[:, :, ::-1]
        latents = [keras.tree.flatten(encoder(x, training=False))[0] for x in (images, rebuilt)]
        mean = absolute_error(images, rebuilt)
        return {
            "mean error": mean,
            "mean squared error": tf.reduce_mean(error**2, [1, 2, 3]),
            "worst window of half the side": tf.reduce_max(
                tf.nn.avg_pool2d(error, 14, 7, "VALID"), [1, 2, 3]
            ),
            "latent distance": tf.reduce_mean(tf.abs(latents[0] - latents[1]), 1),
            "D_N of the reconstruction": -_mean(model.normal_discriminator, rebuilt),
            "D_A of the reconstruction": -_mean(model.anomaly_discriminator, rebuilt),
            "mean error, and of the mirror image": mean
            + absolute_error(mirrored, model.averaged(mirrored, training=False)),
        }

    scores, labels = _in_parts(rules, scale(split.validation.images[:])), split.validation.labels
    found = {name: _auroc(labels, values) for name, values in scores.items()}
    # Fitted on one half of the validation images and tested on the other, both ways.
    features = np.stack([scores[name] for name in list(scores)[:6]], axis=1)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    half = np.random.default_rng(config.seed).permutation(len(labels)) % 2 == 0
    learnt = []
    for one in (half, ~half):
        rule = LogisticRegression(class_weight="balanced").fit(features[one], labels[one])
        learnt.append(_auroc(labels[~one], rule.decision_function(features[~one])))
    halves = [_auroc(labels[one], scores["mean error"][one]) for one in (half, ~half)]
    return found | {
        "mean error, by halves": float(np.mean(halves)),
        "combination of six, learnt on the other half": float(np.mean(learnt)),
        "its own score, with the classifier": _auroc(labels, _own(model, split)),
    }


def of_vae(config: Config) -> Aurocs:
    """AUROCs of errors and latent densities of `vae`, for several latents and with denoising."""
    found: Aurocs = {}
    kept: dict[str, list[np.ndarray]] = {}
    for latent, noise in VAE_VARIANTS:
        sized = dataclasses.replace(config, networks=ConvolutionalNetworks(latent=latent))  # type: ignore[call-arg]
        model, split = _trained(sized, noise)
        labels = split.validation.labels
        scores = _of_one_vae(model, split, config.seed)
        which = f"latent {latent}" + (f", noise {noise} removed" if noise else "")
        found |= {f"{which}: {name}": _auroc(labels, values) for name, values in scores.items()}
        if not noise:
            for name in ("squared error", "its own score"):
                normal = scores[name][labels == 0]
                kept.setdefault(name, []).append((scores[name] - normal.mean()) / normal.std())
    for name, parts in kept.items():
        summed = _auroc(labels, np.sum(parts, axis=0))
        found[f"the {len(parts)} without noise together: {name}"] = summed
    return found


def _of_one_vae(model: Any, split: Split, seed: int) -> dict[str, np.ndarray]:
    """Scores of the validation images by each rule, higher for anomalies."""
    encoder, decoder = (model.averaged.get_layer(name) for name in ("encoder", "decoder"))
    known = scale(split.train.normal[:])
    images = scale(split.validation.images[:])

    def errors(images: tf.Tensor) -> np.ndarray:
        rebuilt = model.averaged.predict(images, verbose=0, batch_size=500)[0]
        return np.reshape(images - rebuilt, (len(images), -1))

    def rules(images: tf.Tensor) -> dict[str, tf.Tensor]:
        rebuilt, standardised, _ = model.averaged(images, training=False)
        return {
            "squared error": squared_error(images, rebuilt),
            "absolute error": absolute_error(images, rebuilt),
            "1 - SSIM": 1 - tf.image.ssim(images, rebuilt, 2.0, filter_size=7),
            "error standardised per pixel": tf.reduce_mean(standardised**2, [1, 2, 3]),
        }

    covariance = LedoitWolf().fit(errors(known))
    known_latents, latents = (
        encoder.predict(those, verbose=0, batch_size=500)[0] for those in (known, images)
    )
    mixture = GaussianMixture(8, reg_covar=1e-3, random_state=seed).fit(known_latents)
    distances, numbers = NearestNeighbors(n_neighbors=5).fit(known_latents).kneighbors(latents)
    remembered = decoder.predict(known_latents[numbers].mean(axis=1), verbose=0, batch_size=500)
    return _in_parts(rules, images) | {
        "error, Mahalanobis": covariance.mahalanobis(errors(images)),
        "latent: squared length": np.square(latents).sum(axis=1),
        "latent: mixture of 8 Gaussians": -mixture.score_samples(latents),
        "latent: distance to 5 nearest": distances.mean(axis=1),
        "squared error from the 5 nearest latents (memory)": squared_error(
            images, remembered
        ).numpy(),
        "its own score": _own(model, split),
    }


def _trained(config: Config, noise: float = 0.0) -> tuple[Any, Split]:
    """Trains a model without a run directory; `noise` is added to the input of the encoder."""
    dataset = open_dataset(config)
    split = make_split(config, dataset)
    setup = TrainingSetup.of(config, dataset, split)
    model: Any = setup.build()
    if noise:
        encode = model.encoder

        def encode_noisy(images: tf.Tensor, training: bool) -> Any:
            added = tf.random.normal(tf.shape(images), stddev=2 * noise)
            return encode(images + added, training=training)

        model.encoder = encode_noisy
    model.fit(
        setup.batches(),
        epochs=setup.config.training.epochs,
        steps_per_epoch=setup.n_steps,
        verbose=0,
        shuffle=False,
    )
    return model, split


def _in_parts(
    rules: Callable[[tf.Tensor], dict[str, tf.Tensor]], images: tf.Tensor
) -> dict[str, np.ndarray]:
    """Applies a function to images, 500 at a time."""
    parts = [rules(images[at : at + 500]) for at in range(0, len(images), 500)]
    return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}


def _own(model: Any, split: Split) -> np.ndarray:
    """Scores of the detector itself for the validation images."""
    return model.detector.predict(split.validation.images[:], verbose=0, batch_size=500)["score"]


def _mean(network: keras.Model, images: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(network(images, training=False), [1, 2, 3])


def _auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    return round(float(roc_auc_score(labels, scores)), 5)


RULES: dict[str, Callable[[Config], Aurocs]] = {"sota": of_dual_gan, "vae": of_vae}
