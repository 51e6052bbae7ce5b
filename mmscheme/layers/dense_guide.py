"""Dense weights that guide the layers of a block-diagonal FFN early in training."""
import torch
from torch import Tensor, nn

from .activations import apply_activation
from .block_diagonal import BlockDiagonalLinear, BlockDiagonalMLP, block_diagonal_linear

__all__ = ['DenseGuide', 'dense_form']


def dense_form(weight: Tensor, groups: int) -> Tensor:
    """Return a block-diagonal weight ``(C_out, C_in / groups)`` as the matrix ``(C_out, C_in)``."""
    return torch.block_diag(*weight.chunk(groups))


class DenseGuide(nn.Module):
    """A dense weight ``W`` beside that of each layer: ``a * W x + (1 - a) * B x``.

    Self-guided training (arXiv 2406.16450) for the two layers of a block-diagonal FFN, whose
    weights are ``B``. ``W`` starts as the dense form of ``B``, so that at first the guide changes
    nothing. The two are added before the product, so a layer costs one dense layer, and not a
    block-diagonal one as well.

    Args:
        ffn: The FFN.

    Raises:
        TypeError: ``ffn`` is another module.
    """

    def __init__(self, ffn: BlockDiagonalMLP) -> None:
        super().__init__()
        if not isinstance(ffn, BlockDiagonalMLP):
            raise TypeError(f'ffn: expected a BlockDiagonalMLP, found {type(ffn).__name__}')
        self.weight1, self.weight2 = (
            nn.Parameter(dense_form(fc.weight.detach(), fc.groups)) for fc in (ffn.fc1, ffn.fc2))

    @torch.no_grad()
    def start(self, ffn: BlockDiagonalMLP) -> None:
        """Start again from the weights of the FFN."""
        for weight, fc in ((self.weight1, ffn.fc1), (self.weight2, ffn.fc2)):
            weight.copy_(dense_form(fc.weight, fc.groups))

    def forward(self, ffn: BlockDiagonalMLP, x: Tensor, share: Tensor) -> Tensor:
        """Apply the FFN with its guide.

        Args:
            ffn: The FFN.
            x: A map ``(B, C, H, W)`` or tokens ``(B, N, C)``.
            share: ``a``, one number.

        Returns:
            The shape of ``x``.
        """
        ffn.fc1.check(x)
        hidden = _guided(ffn.fc1, self.weight1, x, share)
        hidden = ffn.drop1(apply_activation(ffn.act, hidden))
        return ffn.drop2(_guided(ffn.fc2, self.weight2, hidden, share))

    def nothing(self) -> Tensor:
        """Return 0 with a gradient, zero, for each weight: DistributedDataParallel waits for it."""
        return 0 * (self.weight1[0, 0] + self.weight2[0, 0])


def _guided(layer: BlockDiagonalLinear, guide: Tensor, x: Tensor, share: Tensor) -> Tensor:
    own = dense_form(layer.weight, layer.groups)
    return block_diagonal_linear(x, torch.lerp(own, guide, share.to(own.dtype)), layer.bias)
