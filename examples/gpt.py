"""A small GPT with four experts in each layer: the language loss, and a small one that evens out the experts.
It reads the source of Python's argparse.

    python examples/gpt.py
    manyloss compare examples/gpt.py --methods equal,primary:loss=language,pcgrad \\
        --metric val/nats:min

Lines that end in # new or # was: are all that is not plain PyTorch.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from manyloss import lab  # new

STEPS, BATCH, LENGTH, WIDTH, EXPERTS, LAYERS = 300, 16, 32, 48, 4, 2


class Experts(nn.Module):
    """Every token goes to one of a few small networks (Fedus et al. 2022, "Switch transformers")."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
            for _ in range(EXPERTS)
        )

    def forward(self, x):  # [B, L, WIDTH]
        chances = self.router(x).softmax(-1)  # [B, L, EXPERTS]
        chosen = F.one_hot(chances.argmax(-1), EXPERTS).type_as(x)
        share = chosen.mean((0, 1))
        uneven = EXPERTS * (share * chances.mean((0, 1))).sum()  # 1 if all get the same
        outputs = torch.stack([expert(x) for expert in self.experts], -1)  # [B, L, WIDTH, EXPERTS]
        return torch.einsum("blwe,ble->blw", outputs, chosen * chances), uneven, share


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.place = nn.Embedding(128, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(WIDTH, 4, batch_first=True) for _ in range(LAYERS)
        )
        self.experts = nn.ModuleList(Experts() for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * LAYERS + 1))
        self.head = nn.Linear(WIDTH, 128)

    def forward(self, text):  # [B, L + 1]
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        x = self.token(text[:, :-1]) + self.place.weight
        uneven, busiest = 0.0, 0.0
        for number, (attention, experts) in enumerate(zip(self.attentions, self.experts, strict=True)):
            y = self.norms[2 * number](x)
            x = x + attention(y, y, y, attn_mask=mask, is_causal=True, need_weights=False)[0]
            y, layers_uneven, share = experts(self.norms[2 * number + 1](x))
            x, uneven, busiest = x + y, uneven + layers_uneven, max(busiest, float(share.max()))
        language = F.cross_entropy(self.head(self.norms[-1](x)).flatten(0, 1), text[:, 1:].flatten())
        return {"language": language, "balance": 0.01 * uneven}, busiest


def batch(text, generator):
    starts = torch.randint(len(text) - LENGTH, (BATCH,), generator=generator)
    return torch.stack([text[start : start + LENGTH + 1] for start in starts])


torch.manual_seed(lab.seed(default=0))  # was: torch.manual_seed(0)
text = torch.tensor(list(Path(argparse.__file__).read_bytes())).clamp(max=127)
train, validation = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
model = GPT()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
multi = lab.method("primary:loss=language")  # new
generator = torch.Generator().manual_seed(0)
for _ in range(STEPS):
    losses, _ = model(batch(train, generator))
    optimizer.zero_grad()
    multi.backward(losses, shared_params=model)  # was: sum(losses.values()).backward()
    optimizer.step()

with torch.no_grad():
    losses, busiest = model(torch.cat([batch(validation, generator) for _ in range(20)]))
nats, even = float(losses["language"]), 1 / EXPERTS
print(f"{nats:.3f} nats a character; the busiest expert gets {busiest:.0%} of them (even: {even:.0%})")
lab.log({"val/nats": nats, "val/busiest": busiest})  # new
