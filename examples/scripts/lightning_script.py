"""Lightning: what a digit is, and whether it has a loop.

Lines that end in # new or # was: are all that the lab needs. ::

    manyloss compare lightning_script.py --methods equal,pcgrad --seeds 5 --metric val/accuracy:max
"""

import argparse

import lightning
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from manyloss import lab  # new

options = argparse.ArgumentParser()
options.add_argument("--epochs", type=int, default=10)
options = options.parse_args()


class DigitAndLoop(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.digit, self.loop = nn.Linear(32, 10), nn.Linear(32, 2)
        self.multi = lab.method()  # new

    def losses(self, batch):
        images, digits, loops = batch
        features = self.encoder(images)
        found = self.digit(features), self.loop(features)
        right = (found[0].argmax(1) == digits).float().mean()
        losses = {"digit": F.cross_entropy(found[0], digits), "loop": F.cross_entropy(found[1], loops)}
        return features, losses, right

    def training_step(self, batch, index):
        features, losses, _ = self.losses(batch)
        return self.multi.total(losses, features=features)  # was: return sum(losses.values())

    def validation_step(self, batch, index):
        _, losses, right = self.losses(batch)
        self.log_dict({"val/loss": sum(losses.values()), "val/accuracy": right})

    def on_validation_epoch_end(self):
        values = self.trainer.callback_metrics
        print({name: round(float(value), 6) for name, value in values.items()})
        lab.log(values, epoch=self.current_epoch)  # new

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


lightning.seed_everything(lab.seed(default=0))  # was: lightning.seed_everything(0)
images, digits = map(torch.from_numpy, load_digits(return_X_y=True))
loops = torch.isin(digits, torch.tensor([0, 6, 8, 9])).long()
train, validation = random_split(TensorDataset(images.float() / 16, digits, loops), [1400, 397])
trainer = lightning.Trainer(
    max_epochs=options.epochs,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(DigitAndLoop(), DataLoader(train, 64, shuffle=True), DataLoader(validation, 397))
