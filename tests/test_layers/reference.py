"""The layers' definitions: dense matrices and loops in float64."""
import torch

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}


def four_layouts(x):
    """A map as (B, C, H, W) contiguous and channels last, as tokens contiguous and as a view."""
    tokens = x.flatten(2).transpose(1, 2)
    return [x, x.contiguous(memory_format=torch.channels_last), tokens.contiguous(), tokens]


def as_map(y, like):
    return y if y.dim() == 4 else y.transpose(1, 2).reshape(like.shape[0], -1, *like.shape[2:])


def cca_by_loop(x, tau):
    """softmax(tau X X^T) X in float64, one channel at a time."""
    out = []
    for sample in x.double().flatten(2):
        rows = []
        for c in range(len(sample)):
            scores = torch.stack([tau * (sample[c] * other).sum() for other in sample])
            weights = torch.exp(scores - scores.max())
            weights = weights / weights.sum()
            rows.append(sum(w * other for w, other in zip(weights, sample)))
        out.append(torch.stack(rows))
    return torch.stack(out).reshape(x.shape)
