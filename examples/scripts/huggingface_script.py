"""Hugging Face's Trainer: what is in the middle, and is there much?

Lines that end in # new or # was: are all that the lab needs. ::

    manyloss compare huggingface_script.py --methods equal,pcgrad --seeds 5 --metric val/accuracy:max
"""

import argparse
import tempfile

import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel, Trainer, TrainingArguments, set_seed

from manyloss import lab  # new

options = argparse.ArgumentParser()
options.add_argument("--epochs", type=int, default=5)
options = options.parse_args()
multi = lab.method()  # new


class MiddleAndMany(nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = BertModel(
            BertConfig(
                vocab_size=8,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                attn_implementation="eager",
            )
        )
        self.middle, self.many = nn.Linear(16, 8), nn.Linear(16, 2)

    def forward(self, input_ids, middle, many):
        hidden = self.bert(input_ids).last_hidden_state[:, 0]
        found = self.middle(hidden), self.many(hidden)
        losses = {"middle": F.cross_entropy(found[0], middle), "many": F.cross_entropy(found[1], many)}
        loss = multi.total(losses, features=hidden)  # was: loss = sum(losses.values())
        return {"loss": loss, "logits": found[0]}


def accuracy(evaluated):
    right = float((evaluated.predictions.argmax(-1) == evaluated.label_ids[0]).mean())
    print(f"accuracy {right:.6f}")
    lab.log({"val/accuracy": right})  # new
    return {"accuracy": right}


set_seed(lab.seed(default=0))  # was: set_seed(0)
rows = [
    {"input_ids": row, "middle": row[3], "many": int(len(row.unique()) > 4)}
    for row in torch.randint(0, 8, (600, 7))
]
trainer = Trainer(
    model=MiddleAndMany(),
    args=TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=100,
        learning_rate=3e-3,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        label_names=["middle", "many"],
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    ),
    train_dataset=rows[:500],
    eval_dataset=rows[500:],
    compute_metrics=accuracy,
)
trainer.train()
