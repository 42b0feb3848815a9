"""IMTL (Liu et al. 2021): G's closed form (eq. 3) on vectors, and L's scales by autograd and Adam (eq. 6)."""

import numpy as np
import torch


def imtl_g(gradients: np.ndarray) -> np.ndarray:
    """alpha_2..T = g_1 U^T (D U^T)^-1, U = rows u_1 - u_i, D = rows g_1 - g_i; alpha_1 = 1 - their sum."""
    gradients = np.asarray(gradients, dtype=np.float64)
    if len(gradients) == 1:
        return np.ones(1)
    units = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    U, D = units[:1] - units[1:], gradients[:1] - gradients[1:]
    others = gradients[0] @ U.T @ np.linalg.inv(D @ U.T)
    return np.concatenate([[1.0 - others.sum()], others])


def imtl_l(losses: np.ndarray, lr: float) -> np.ndarray:
    """Weights of every step, for losses [steps, T]."""
    scales = torch.zeros(losses.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([scales], lr=lr)
    weights = []
    for step in torch.from_numpy(losses):
        weights.append(scales.detach().exp().numpy())
        optimizer.zero_grad()
        (scales.exp() * step - scales).sum().backward()
        optimizer.step()
    return np.stack(weights)
