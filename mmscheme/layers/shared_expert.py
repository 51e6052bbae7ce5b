"""An FFN of gated experts that share all but one of their layers."""
import math
import warnings
from contextlib import contextmanager
from functools import partial
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscheme.ops import exporting
from mmscheme.utils.check_args import check_count, check_flags, check_number

from .block_diagonal import BlockDiagonalLinear

__all__ = ['SharedExpertFFN', 'auxiliary_losses']

# Keeps the noise, by which the load is divided, away from zero.
_LEAST_NOISE = 1e-2


class SharedExpertFFN(nn.Module):
    """``y = W2(sum_k gate_k(x) * SiLU(W1_k x) * V x)`` (arXiv 2407.17783).

    A mixture of SwiGLU FFNs that share ``V`` and ``W2``; each expert has only its own ``W1``. As
    the second layer is linear, the experts are summed before it. The gate is the noisy top-k gate
    of arXiv 1701.06538: in training, noise of a learned size decides close calls, and the weights
    of the chosen experts are a softmax. Two losses, the squared coefficients of variation of the
    experts' importance and load, keep all of them in use. :func:`auxiliary_losses` gathers them;
    in mmengine's runner, ``mmscheme.AuxiliaryLossHook`` does.

    Args:
        embed_dims: Channels ``C``.
        hidden_dims: Hidden channels of each expert; ``C`` by default.
        num_experts: Number of experts, more than ``top_k``.
        top_k: Number of experts for each token.
        importance_weight, load_weight: Factors of the losses.
        gathered: Compute only the chosen experts, token by token, instead of all of them.
            Exports compute all.
        drop: Dropout before and after the last layer.
        init_std: See :class:`BlockDiagonalLinear`. The gate starts at zero, without preferences.

    Raises:
        TypeError, ValueError: An argument is not as above; the message names it.
    """

    def __init__(self, embed_dims: int, hidden_dims: Optional[int] = None, *, num_experts: int = 4,
                 top_k: int = 2, importance_weight: float = 1e-2, load_weight: float = 1e-2,
                 gathered: bool = False, drop: float = 0., init_std: Optional[float] = None
                 ) -> None:
        super().__init__()
        hidden_dims = embed_dims if hidden_dims is None else hidden_dims
        for name, count in (('embed_dims', embed_dims), ('hidden_dims', hidden_dims),
                            ('top_k', top_k)):
            check_count(name, count)
        check_count('num_experts', num_experts, top_k + 1)
        for name, weight in (('importance_weight', importance_weight),
                             ('load_weight', load_weight)):
            check_number(name, weight, 'a number >= 0', lambda n: 0 <= n < math.inf)
        check_number('drop', drop, 'a probability', lambda n: 0 <= n <= 1)
        check_flags(gathered=gathered)
        self.num_experts, self.top_k, self.gathered = num_experts, top_k, gathered
        self.importance_weight, self.load_weight = importance_weight, load_weight
        self.w1 = BlockDiagonalLinear(embed_dims, num_experts * hidden_dims, init_std=init_std)
        self.v = BlockDiagonalLinear(embed_dims, hidden_dims, init_std=init_std)
        self.w2 = BlockDiagonalLinear(hidden_dims, embed_dims, init_std=init_std)
        self.gate = BlockDiagonalLinear(embed_dims, num_experts, bias=False)
        self.noise = BlockDiagonalLinear(embed_dims, num_experts, bias=False)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.noise.weight)
        self.drop1, self.drop2 = nn.Dropout(drop), nn.Dropout(drop)
        #: Losses of the calls since :func:`auxiliary_losses` began; None while nobody asks.
        self.losses: Optional[List[Dict[str, Tensor]]] = None
        # By the name of a loss: the gradient that it has, where it was computed without.
        self._owed: Dict[str, Tensor] = {}
        self._asked = importance_weight == load_weight == 0

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of each position.

        Args:
            x: A map ``(B, C, H, W)`` or tokens ``(..., C)``.

        Returns:
            The shape of ``x``.
        """
        self.v.check(x)
        tokens = x.flatten(2).mT if x.dim() == 4 else x
        gates, losses = self._route(tokens)
        mix = self._gathered if self.gathered and not exporting() else self._dense
        y = self.drop2(self.w2(self.drop1(mix(tokens, gates) * self.v(tokens))))
        if losses and self._owed and torch.is_grad_enabled():
            y = _Carried.apply(y, self._owed, losses.keys(), *losses.values())
        return y.mT.unflatten(2, x.shape[2:]) if x.dim() == 4 else y

    def _dense(self, tokens: Tensor, gates: Tensor) -> Tensor:
        hidden = F.silu(self.w1(tokens)).unflatten(-1, (self.num_experts, -1))
        return torch.einsum('...eh,...e->...h', hidden, gates.to(hidden.dtype))

    def _gathered(self, tokens: Tensor, gates: Tensor) -> Tensor:
        flat, weights = tokens.reshape(-1, tokens.shape[-1]), gates.reshape(-1, self.num_experts)
        layers = zip(self.w1.weight.chunk(self.num_experts), self.w1.bias.chunk(self.num_experts))
        total = flat.new_zeros(len(flat), self.v.out_features)
        for expert, layer in enumerate(layers):
            chosen = weights[:, expert].nonzero().squeeze(1)
            hidden = F.silu(F.linear(flat[chosen], *layer)) * weights[chosen, expert, None]
            total = total.index_add(0, chosen, hidden.to(total.dtype))
        return total.unflatten(0, tokens.shape[:-1])

    def _route(self, tokens: Tensor) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Return the experts' weights ``(..., num_experts)``, ``top_k`` of them, and the losses."""
        with torch.autocast('cpu' if tokens.is_meta else tokens.device.type, enabled=False):
            dtype = torch.promote_types(tokens.dtype, torch.float32)
            tokens = tokens.to(dtype)
            clean = F.linear(tokens, self.gate.weight.to(dtype))
            logits = clean
            if self.training:
                std = F.softplus(F.linear(tokens, self.noise.weight.to(dtype))) + _LEAST_NOISE
                logits = clean + torch.randn_like(clean) * std
            best, experts = logits.topk(self.top_k + 1)
            weights = torch.softmax(best[..., :-1], -1)
            gates = torch.zeros_like(logits).scatter(-1, experts[..., :-1], weights)
            if not self.training:
                return gates, {}
            losses = {'loss_importance': self.importance_weight * _variation(gates),
                      'loss_load': self.load_weight * _variation(
                          _probability(clean, logits, std, best))}
        if self.losses is not None:
            self.losses.append(losses)
            self._asked = True
        elif not self._asked and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._asked = True
            warnings.warn('SharedExpertFFN: nothing takes its auxiliary losses, so that a few '
                          'experts may get all tokens; set custom_hooks=[dict(type='
                          "'mmscheme.AuxiliaryLossHook')], or both weights to 0", stacklevel=2)
        return gates, losses

    def extra_repr(self) -> str:
        return f'num_experts={self.num_experts}, top_k={self.top_k}, gathered={self.gathered}'


class _Carried(torch.autograd.Function):
    """A tensor that brings losses their gradients, which were known before it was computed."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, owed: Dict[str, Tensor], names: Any, *losses: Tensor
                ) -> Tensor:
        ctx.grads = [owed.get(name) for name in names]
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        return (grad, None, None, *ctx.grads)


def _probability(clean: Tensor, noisy: Tensor, std: Tensor, best: Tensor) -> Tensor:
    """Return how likely each expert is chosen when its own noise alone is drawn again."""
    # It competes with the top k of the others: an expert that is among them, with the next.
    others = torch.where(noisy > best[..., -1:], best[..., -1:], best[..., -2:-1])
    return torch.special.ndtr((clean - others) / std)


def _variation(values: Tensor) -> Tensor:
    """Return the squared coefficient of variation of the experts' sums over all tokens."""
    sums = values.flatten(0, -2).sum(0)
    return sums.var(correction=0) / (sums.mean().square() + 1e-10)


@contextmanager
def auxiliary_losses(model: nn.Module) -> Iterator[Dict[str, Tensor]]:
    """Gather the losses of all :class:`SharedExpertFFN` of a model.

    A layer in a reentrant checkpoint, such as stock backbones have with ``with_cp=True``, runs
    without gradients, and again within the backward pass. Its losses then get their gradients by
    way of its output.

    Args:
        model: Model to run inside the ``with`` block, once or several times.

    Yields:
        A dict that, after the block, has ``loss_importance`` and ``loss_load``, summed over layers
        and calls; it is empty if no layer was called in training mode.
    """
    layers = [m for m in model.modules() if isinstance(m, SharedExpertFFN)]
    found: Dict[str, Tensor] = {}
    for layer in layers:
        layer.losses, layer._owed = [], {}
    try:
        yield found
        for layer in layers:
            for losses in layer.losses or ():
                for name, loss in losses.items():
                    if torch.is_grad_enabled() and not loss.requires_grad:
                        loss = loss.detach().requires_grad_()
                        # Called before any layer of the model has its gradient.
                        loss.register_hook(partial(layer._owed.__setitem__, name))
                    found[name] = found[name] + loss if name in found else loss
    finally:
        for layer in layers:
            layer.losses = None
