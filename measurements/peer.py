"""The earlier work's network in plain PyTorch, for the comparison of `make bench PEER=1`.

A convolutional autoencoder of 16, 32 and 64 channels and two discriminators of the same shape, with
squared errors, Adam 1e-3, and batches of 32 images, half of them normal; T-shirts are normal. A
plain loop over tensors in memory. Needs torch, numpy and scikit-learn only:

    python measurements/peer.py data/fashion_mnist.npz 0.9727 --epochs 15

Prints one JSON object: images per second, and the seconds of training until the AUROC of the raw
scores on the test images reached the target, tested every 640 images (the test is not counted).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

BATCH, LEARNING_RATE, WEIGHT_DECAY = 32, 1e-3, 1e-5
SCORED_EVERY = 20  # steps


def encoder() -> list[nn.Module]:
    """Images (N, 1, 28, 28) to (N, 64, 1, 1)."""
    return [
        *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
        nn.Conv2d(32, 64, 7),
    ]


class Generator(nn.Module):
    """An autoencoder; images in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*encoder())
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(64, 32, 7), nn.ReLU()),
            *(nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), nn.ReLU()),
            *(nn.ConvTranspose2d(16, 1, 3, 2, 1, 1), nn.Tanh()),
        )

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and reconstructions."""
        latents = self.encoder(images)
        return latents, self.decoder(latents)


class Peer:
    """The three networks in training."""

    def __init__(self) -> None:
        self.generator = Generator()
        self.discriminators = [nn.Sequential(*encoder(), nn.Sigmoid()) for _ in range(2)]
        networks = (self.generator, *self.discriminators)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            for network in networks
        ]

    def step(self, images: torch.Tensor, label: int) -> None:
        """One step on images with one label: 0 normal, 1 anomaly."""
        discriminator = self.discriminators[label]
        latents, fake = self.generator(images)
        real_loss = _distance(discriminator(images), 1.0)
        fake_loss = _distance(discriminator(fake.detach()), 0.0)
        _descend(self.optimizers[1 + label], (real_loss + fake_loss) / 2)
        error = nn.functional.mse_loss(fake, images)
        if label == 0:
            again, _ = self.generator(fake)
            deceived = _distance(discriminator(fake), 1.0)
            loss = torch.sigmoid((error + deceived + nn.functional.mse_loss(again, latents)) / 3)
        else:
            loss = -torch.sigmoid(_distance(discriminator(fake), 1.0) + error) / 2
        _descend(self.optimizers[0], loss)

    @torch.no_grad()
    def scores(self, images: torch.Tensor) -> np.ndarray:
        """Mean squared error of each image."""
        parts = [((self.generator(x)[1] - x) ** 2).mean((1, 2, 3)) for x in images.split(500)]
        return torch.cat(parts).numpy()


def _distance(scores: torch.Tensor, target: float) -> torch.Tensor:
    return nn.functional.mse_loss(scores, torch.full_like(scores, target))


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def batches(anomalous: torch.Tensor, epochs: int) -> Iterator[torch.Tensor]:
    """Numbers of images, sampled so that half are normal."""
    weights = torch.where(anomalous, 1.0 / anomalous.sum(), 1.0 / (~anomalous).sum())
    for _ in range(epochs):
        drawn = torch.multinomial(weights, len(weights), replacement=True)
        yield from drawn.split(BATCH)


def main() -> None:
    """Trains until the target or the last epoch, and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="fashion_mnist.npz, the cache of train.py")
    parser.add_argument("target", type=float, help="AUROC on the test images")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with np.load(options.data) as arrays:
        train, test = (
            torch.from_numpy(arrays[f"{part}_images"].reshape(-1, 1, 28, 28) / 127.5 - 1).float()
            for part in ("train", "test")
        )
        anomalous, test_anomalous = (
            torch.from_numpy(arrays[f"{part}_classes"] != 0) for part in ("train", "test")
        )
    peer = Peer()
    seconds, images, auroc = 0.0, 0, 0.0
    start = time.perf_counter()
    for number, batch in enumerate(batches(anomalous, options.epochs), 1):
        for label in (0, 1):
            part = train[batch[anomalous[batch] == bool(label)]]
            if len(part):
                peer.step(part, label)
        images += len(batch)
        if number % SCORED_EVERY:
            continue
        seconds += time.perf_counter() - start
        auroc = float(roc_auc_score(test_anomalous, peer.scores(test)))
        if auroc >= options.target:
            break
        start = time.perf_counter()
    found = {"reached": auroc >= options.target, "auroc": auroc, "seconds": seconds}
    print(json.dumps(found | {"images_per_second": images / seconds, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
