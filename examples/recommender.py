"""A recommender: who clicks, and who likes? Sparse embeddings, an MMoE, two tasks, one of them rare.

    python examples/recommender.py
    manyloss compare examples/recommender.py --methods equal,metabalance,pcgrad \\
        --metric val/click:max --metric val/like:max

Multi-gate mixture of experts: Ma et al. 2018.
Lines that end in # new or # was: are all that is not plain PyTorch.
"""

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn

from manyloss import lab  # new

STEPS, USERS, ITEMS, WIDTH, EXPERTS, TASKS = 400, 300, 200, 8, 4, ("click", "like")


def made(count, generator):
    """Users who like all or little, items that are good or bad, and tastes; one click in five is a like."""
    users, items = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (USERS, ITEMS))
    user = torch.randint(USERS, (count,), generator=generator)
    item = torch.randint(ITEMS, (count,), generator=generator)
    u, i = users[user], items[item]
    chances = {
        "click": u[:, 0] + i[:, 0] + 1.5 * u[:, 1] * i[:, 1] - 1,
        "like": i[:, 0] - i[:, 2] + 1.5 * u[:, 2] * i[:, 1] - 2,
    }
    drawn = {
        task: (torch.rand(count, generator=generator) < chance.sigmoid()).float()
        for task, chance in chances.items()
    }
    return user, item, {"click": drawn["click"], "like": drawn["click"] * drawn["like"]}


class MMoE(nn.Module):
    def __init__(self):
        super().__init__()
        self.users = nn.Embedding(USERS, WIDTH, sparse=True)
        self.items = nn.Embedding(ITEMS, WIDTH, sparse=True)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * WIDTH, 32), nn.ReLU(), nn.Linear(32, WIDTH), nn.ReLU())
            for _ in range(EXPERTS)
        )
        self.gates = nn.ModuleDict({task: nn.Linear(2 * WIDTH, EXPERTS) for task in TASKS})
        self.towers = nn.ModuleDict(
            {task: nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, 1)) for task in TASKS}
        )

    def forward(self, user, item):
        x = torch.cat([self.users(user), self.items(item)], 1)  # [B, 2 WIDTH]
        x = multi.cut(x)  # new
        experts = torch.stack([expert(x) for expert in self.experts], 1)  # [B, EXPERTS, WIDTH]
        experts = multi.cut(experts)  # new
        outputs = {}
        for task in TASKS:  # a task looks at both: its gate at x, its tower at the experts
            gate = self.gates[task](x).softmax(1)
            outputs[task] = self.towers[task](torch.einsum("be,bew->bw", gate, experts))[:, 0]
        return outputs


torch.manual_seed(lab.seed(default=0))  # was: torch.manual_seed(0)
multi = lab.method("metabalance", losses=TASKS)  # new
model = MMoE()
tables = [model.users.weight, model.items.weight]
others = [p for p in model.parameters() if all(p is not table for table in tables)]
optimizers = torch.optim.SparseAdam(tables, lr=1e-2), torch.optim.Adam(others, lr=3e-3)
generator = torch.Generator().manual_seed(0)
for _ in range(STEPS):
    user, item, labels = made(256, generator)
    outputs = model(user, item)
    losses = {task: F.binary_cross_entropy_with_logits(outputs[task], labels[task]) for task in TASKS}
    for optimizer in optimizers:
        optimizer.zero_grad()
    multi.backward(losses)  # was: sum(losses.values()).backward()
    for optimizer in optimizers:
        optimizer.step()

user, item, labels = made(20_000, torch.Generator().manual_seed(3))
with torch.no_grad():
    outputs = model(user, item)
areas = {task: roc_auc_score(labels[task], outputs[task]) for task in TASKS}
shares = {task: float(labels[task].mean()) for task in TASKS}
print("; ".join(f"{task} ({shares[task]:.0%} of all): AUC {areas[task]:.3f}" for task in TASKS))
lab.log({f"val/{task}": area for task, area in areas.items()})  # new
