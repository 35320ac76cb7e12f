"""A random quadratic on a small module's parameters, and its descent by our and by ``torch.optim``'s optimisers."""

import torch
from torch import nn

generator = torch.Generator().manual_seed(0)
FACTOR, TARGETS, START = (torch.randn(*shape, generator=generator).double() for shape in ((13, 13), (90, 13), (13,)))


class Small(nn.Module):
    """Four parameters, of 13 numbers."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(2, 3).double(), nn.Linear(3, 1).double()
        nn.utils.vector_to_parameters(START.clone(), self.parameters())


NAMES = [name for name, _ in Small().named_parameters()]
SHAPES = [parameter.shape for parameter in Small().parameters()]


def slope(theta, k):
    """Of ``|FACTOR theta|^2 / 26`` and of a line that is another at every step."""
    return theta @ FACTOR.T @ FACTOR / 13 + TARGETS[k]


def started(optimizer):
    return torch.cat([START[None], torch.zeros(optimizer.buffers, 13).double()])


def moved(optimizer, state, steps, offset=0):
    """The state after these steps; the optimiser counts its own from ``offset`` on."""
    for k in steps:
        state = optimizer.update(
            torch.tensor(float(k + offset), dtype=torch.float64), state, slope(state[..., 0, :], k)
        )
    return state


def torch_moved(module, optimizer, steps, clip=None, scheduler=None):
    """The module's parameters after these steps of the loop that everyone writes."""
    parameters = list(module.parameters())
    for k in steps:
        vector = nn.utils.parameters_to_vector(parameters).detach()
        parts = slope(vector, k).split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.reshape(parameter.shape).clone()
        if clip:
            clip(module)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return nn.utils.parameters_to_vector(parameters).detach()


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def some_states(optimizer, models=5):
    """States on the way, with gradients of several sizes."""
    states = torch.stack([moved(optimizer, started(optimizer), range(k)) for k in range(6, 6 + models)])
    return states, slope(states[:, 0], 20) * torch.logspace(-2, 1, models, dtype=torch.float64)[:, None]


def assert_vmap_equals_each_alone(optimizer):
    step = torch.tensor(9.0, dtype=torch.float64)
    states, gradients = some_states(optimizer)
    alone = torch.stack([optimizer.update(step, *one) for one in zip(states, gradients, strict=True)])
    assert_equal(optimizer.update(step, states, gradients), alone)
    assert_equal(torch.vmap(optimizer.update, in_dims=(None, 0, 0))(step, states, gradients), alone)


def assert_derivatives_are_those_of_finite_differences(optimizer):
    step = torch.tensor(9.0, dtype=torch.float64)
    for state, gradient in zip(*some_states(optimizer), strict=True):
        inputs = state.clone().requires_grad_(), gradient.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda *given: optimizer.update(step, *given), inputs)


def recorded(function, *inputs):
    """The function as a graph of operations, recorded without values, as long runs are."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(lambda *given: function(*given), tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
