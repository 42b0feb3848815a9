"""An actor-critic that balances a pole: policy, value of states and a little entropy share one trunk.

    python examples/actor_critic.py
    manyloss compare examples/actor_critic.py --methods equal,primary:loss=policy,pcgrad \\
        --metric val/steps:max

Lines that end in # new or # was: are all that is not plain PyTorch.
"""

import torch
import torch.nn.functional as F
from torch import nn

from manyloss import lab  # new

STEPS, POLES, LENGTH, GAMMA, LIMIT = 200, 32, 16, 0.99, 500


class Poles:
    """Carts with a pole each (Barto et al. 1983): place, speed, angle, angular speed [POLES, 4]."""

    def __init__(self):
        self.state = self.upright()

    def upright(self):
        return 0.1 * torch.rand(POLES, 4) - 0.05

    def push(self, right):
        """Push every cart to the right or to the left; True for each pole that fell, which starts anew."""
        _, v, angle, w = self.state.unbind(1)
        push = (20 * right - 10 + 0.05 * w.square() * angle.sin()) / 1.1
        turn = (9.8 * angle.sin() - angle.cos() * push) / (2 / 3 - 0.05 * angle.cos().square() / 1.1)
        speed = push - 0.05 * turn * angle.cos() / 1.1
        state = self.state + 0.02 * torch.stack([v, speed, w, turn], 1)
        fell = (state[:, 0].abs() > 2.4) | (state[:, 2].abs() > 0.21)
        self.state = torch.where(fell[:, None], self.upright(), state)
        return fell


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.actor, self.critic = nn.Linear(64, 2), nn.Linear(64, 1)

    def forward(self, states):
        z = self.trunk(states)
        return self.actor(z), self.critic(z)[..., 0], z


@torch.no_grad()
def played(model, poles):
    """What happened in LENGTH steps: states, actions and returns, each [LENGTH, POLES, ...]."""
    states, actions, falls = [], [], []
    for _ in range(LENGTH):
        states.append(poles.state)
        actions.append(model(poles.state)[0].softmax(1).multinomial(1)[:, 0])
        falls.append(poles.push(actions[-1]))
    returns, coming = [], model(poles.state)[1]
    for fell in reversed(falls):
        coming = 1 + GAMMA * coming * ~fell
        returns.insert(0, coming)
    return torch.stack(states), torch.stack(actions), torch.stack(returns)


@torch.no_grad()
def endurance(model):
    """Steps until a pole falls, on average, when the likelier action is always taken."""
    poles, standing, steps = Poles(), torch.ones(POLES, dtype=torch.bool), torch.zeros(POLES)
    for _ in range(LIMIT):
        standing &= ~poles.push(model(poles.state)[0].argmax(1))
        steps += standing
    return float(steps.mean())


torch.manual_seed(lab.seed(default=0))  # was: torch.manual_seed(0)
model, poles = ActorCritic(), Poles()
multi = lab.method("primary:loss=policy")  # new
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(STEPS):
    states, actions, returns = played(model, poles)
    logits, values, z = model(states)
    chances = torch.distributions.Categorical(logits=logits)
    losses = {
        "policy": -((returns - values).detach() * chances.log_prob(actions)).mean(),
        "value": 0.5 * F.mse_loss(values, returns),
        "entropy": -0.01 * chances.entropy().mean(),
    }
    optimizer.zero_grad()
    multi.backward(losses, features=z)  # was: sum(losses.values()).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()

steps = endurance(model)
print(f"the pole stands for {steps:.0f} steps (at most {LIMIT})")
lab.log({"val/steps": steps})  # new
