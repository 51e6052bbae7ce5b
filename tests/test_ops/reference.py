"""The block-diagonal FFN written out with dense matrices, and inputs for all its forms."""
import torch
import torch.nn.functional as F


def activate(h, act, scale, shift):
    if act == 'star_relu':
        return scale * torch.where(h > 0, h, 0.)**2 + shift
    return {'gelu': F.gelu, 'silu': F.silu, 'relu': F.relu}[act](h)


def dense_mlp(x, w1, b1, w2, b2, groups, act, scale=None, shift=None):
    """With zeros off the blocks, position by position."""
    rows = x.permute(0, 2, 3, 1) if x.dim() == 4 else x
    full1, full2 = (torch.block_diag(*w.chunk(groups)) for w in (w1, w2))
    h = rows @ full1.T + (0 if b1 is None else b1)
    y = activate(h, act, scale, shift) @ full2.T + (0 if b2 is None else b2)
    return y.permute(0, 3, 1, 2) if x.dim() == 4 else y


def make(layout, channels, hidden, groups, act, bias, dtype, size=(5, 7), batch=3):
    """An input in a layout, and the weights."""
    x = torch.randn(batch, channels, *size)
    if layout == 'channels_last':
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == 'tokens':
        x = x.flatten(2).transpose(1, 2).contiguous()
    elif layout == 'view':
        x = torch.randn(size[0] * size[1], batch, channels).transpose(0, 1)
    inputs = [x, torch.randn(hidden, channels // groups), torch.randn(hidden) if bias else None,
              torch.randn(channels, hidden // groups) / 3, torch.randn(channels) if bias else None]
    extra = [torch.tensor([0.9]), torch.tensor([-0.4])] if act == 'star_relu' else [None, None]
    return [None if t is None else t.to(dtype).requires_grad_() for t in inputs + extra]


def errors(function, inputs, groups, act, **kwargs):
    """Relative errors of the output and of all gradients against float64.

    In falling order, a NaN first, because Python's maximum may leave it out.
    """
    exact = [None if t is None else t.detach().double().requires_grad_() for t in inputs]
    y = function(*inputs[:5], groups, act, *inputs[5:], **kwargs)
    expected = dense_mlp(*exact[:5], groups, act, *exact[5:])
    assert y.dtype == inputs[0].dtype and y.stride() == inputs[0].stride()
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, [t for t in inputs if t is not None], grad)
    wanted = torch.autograd.grad(expected, [t for t in exact if t is not None], grad.double())
    # Sums over everything, those of StarReLU's numbers, may cancel to little.
    return torch.stack([(a.detach().double() - b).abs().max()
                        / b.abs().max().clamp(min=20 if b.numel() == 1 else 1e-3)
                        for a, b in zip((y, *found), (expected.detach(), *wanted))
                        ]).sort(descending=True).values.tolist()
