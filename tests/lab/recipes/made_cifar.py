"""CIFAR-10's official layout with images that can be learned: a colour and a stripe per class."""

import numpy as np

from manyloss.lab.datasets import cifar10


def write(root, per_batch=100):
    folder = root / cifar10.FOLDER
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    colours = generator.integers(40, 216, (10, 3))
    for name in cifar10._FILES:
        labels = generator.permutation(np.arange(per_batch) % 10)
        images = np.broadcast_to(colours[labels][:, :, None, None], (per_batch, 3, 32, 32)).copy()
        for image, label in zip(images, labels, strict=True):
            image[:, 3 * label : 3 * label + 3] = 255 - image[:, 3 * label : 3 * label + 3]
        images = (images + generator.integers(-20, 20, images.shape)).clip(0, 255).astype(np.uint8)
        records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(per_batch, -1)], axis=1)
        records.tofile(folder / name)
    return root
