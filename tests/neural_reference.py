"""Slow, obvious meta-gradients: one task after the other, plain double backward, written without the package."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call

# Small networks on busy cores wait longer for each other's threads than they compute.
torch.set_num_threads(1)


def half_mse(prediction, y):
    return (prediction - y).square().mean() / 2


def steps(module, params, names, rates, X, y, loss, extra=None, differentiable=True):
    """Take gradient steps of one task; rates are one dict per step."""
    theta = dict(params)
    for rate in rates:
        value = loss(functional_call(module, theta, (X,)), y)
        if extra is not None:
            value = value + extra(theta)
        gradients = torch.autograd.grad(value, [theta[n] for n in names], create_graph=differentiable)
        for name, gradient in zip(names, gradients, strict=True):
            theta[name] = theta[name] - rate[name] * gradient
            if not differentiable and not theta[name].requires_grad:
                theta[name].requires_grad_()
    return theta


def task_gradient(module, params, names, rates, task, loss=half_mse, first_order=False):
    """Return query loss and its gradient by parameter and by rate (one dict per step) of one task."""
    Xs, ys, Xq, yq = task
    leaves = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
    rates = [{n: r.detach().clone().requires_grad_() for n, r in rate.items()} for rate in rates]
    theta = dict(leaves)
    for rate in rates:
        value = loss(functional_call(module, theta, (Xs,)), ys)
        gradients = torch.autograd.grad(value, [theta[n] for n in names], create_graph=True)
        for name, gradient in zip(names, gradients, strict=True):
            theta[name] = theta[name] - rate[name] * (gradient.detach() if first_order else gradient)
    value = loss(functional_call(module, theta, (Xq,)), yq)
    wanted = [*leaves.values(), *(r for rate in rates for r in rate.values())]
    found = list(torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True))
    by_parameter = dict(zip(leaves, found, strict=False))
    by_rate = [dict(zip(rate, found[len(leaves) + i * len(names) :], strict=False)) for i, rate in enumerate(rates)]
    return value.detach(), by_parameter, by_rate


def reptile_gradient(module, params, rates, task, loss=half_mse):
    Xs, ys, _, _ = task
    leaves = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
    end = steps(module, leaves, list(leaves), rates, Xs, ys, loss)
    return {n: (leaves[n] - end[n]).detach() for n in leaves}


def implicit_gradient(module, params, rates, task, strength, loss=half_mse):
    """Return (I + H / strength)^-1 g with the dense Hessian of the support loss at the end of the steps."""
    Xs, ys, Xq, yq = task
    leaves = {n: p.detach().clone().requires_grad_() for n, p in params.items()}

    def away(theta):
        return strength / 2 * sum((theta[n] - params[n].detach()).square().sum() for n in theta)

    end = steps(module, leaves, list(leaves), rates, Xs, ys, loss, away)
    sizes = [p.numel() for p in params.values()]
    flat = torch.cat([end[n].detach().reshape(-1) for n in params])

    def of_flat(vector, X, y):
        parts = vector.split(sizes)
        theta = {n: part.view_as(params[n]) for (n, part) in zip(params, parts, strict=True)}
        return loss(functional_call(module, theta, (X,)), y)

    H = torch.autograd.functional.hessian(lambda v: of_flat(v, Xs, ys), flat)
    point = flat.clone().requires_grad_()
    g = torch.autograd.grad(of_flat(point, Xq, yq), point)[0]
    solved = torch.linalg.solve(torch.eye(len(flat), dtype=flat.dtype) + H / strength, g)
    return {n: part.view_as(params[n]) for n, part in zip(params, solved.split(sizes), strict=True)}


def conv4(norm, channels=4, n_outputs=3):
    """Return four blocks of convolution, normalisation, smooth activation and average pooling, and a head."""

    def block(n_in):
        layer = nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(2, channels)
        return nn.Sequential(nn.Conv2d(n_in, channels, 3, padding=1), layer, nn.Softplus(), nn.AvgPool2d(2))

    blocks = [block(1 if i == 0 else channels) for i in range(4)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(channels, n_outputs)).double()


def mlp():
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)).double()
