"""Channel mixers and backbones that tools/analysis_tools/benchmark.py compares ours with."""
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscheme.analysis.throughput import OURS, Contest
from mmscheme.layers import BlockDiagonalMLP, SCHEMEMixer, channel_covariance_attention
from mmscheme.ops import block_diagonal_mlp

try:
    from mmscheme.models import SCHEMEformer
    from mmscheme.models.backbones.schemeformer import ARCHS
except ImportError:  # torch alone is enough for the mixers
    ARCHS = {}

__all__ = ['DENSE', 'NARROW', 'backbones', 'mixers']

#: Arguments of the dense MetaFormer-PPAA.
DENSE: Dict[str, Any] = dict(groups=(1, 1), expansion=4, cca=False)
#: The same with the multiply-adds of 44-e8.
NARROW: Dict[str, Any] = dict(DENSE, expansion=2)


def _step(function: Callable[[Tensor], Any], x: Tensor, parameters: List[Tensor],
          training: bool) -> Callable[[], Any]:
    """Return a call of a function, in training with its backward pass."""
    if not training:
        def infer() -> Any:
            with torch.no_grad():  # the weights were made outside of inference mode
                return function(x)
        return infer
    x = x.detach().requires_grad_()

    def train() -> None:
        outs = function(x)
        outs = list(outs) if isinstance(outs, (tuple, list)) else [outs]
        torch.autograd.backward(outs, [torch.ones_like(out) for out in outs],
                                inputs=[x, *(p for p in parameters if p.requires_grad)])
        x.grad = None
        for p in parameters:
            p.grad = None
    return train


def _grouped(ffn: BlockDiagonalMLP) -> Callable[[Tensor], Tensor]:
    """Return the authors' construction: two grouped 1x1 convolutions, channels first."""
    def run(x: Tensor) -> Tensor:
        h = F.conv2d(x, ffn.fc1.weight[:, :, None, None], ffn.fc1.bias, groups=ffn.fc1.groups)
        return F.conv2d(F.gelu(h), ffn.fc2.weight[:, :, None, None], ffn.fc2.bias,
                        groups=ffn.fc2.groups)
    return run


def _with_cca(ffn: Callable[[Tensor], Tensor], mixer: SCHEMEMixer) -> Callable[[Tensor], Tensor]:
    """Return the authors' form in training: beside the FFN a softmax between two products."""
    def run(x: Tensor) -> Tensor:
        y, alpha = ffn(x), mixer.alpha
        covariance = channel_covariance_attention(
            x.flatten(2), mixer.cca.tau, implementation='plain')  # type: ignore[union-attr]
        return alpha * y + (1 - alpha) * covariance.view_as(x)
    return run


def _dense(ffn: BlockDiagonalMLP) -> Dict[str, Callable[[Tensor], Tensor]]:
    """Return a dense FFN in its good forms, by their memory format."""
    (w1, b1), (w2, b2) = ((fc.weight, fc.bias) for fc in (ffn.fc1, ffn.fc2))

    def convolutions(x: Tensor) -> Tensor:
        h = F.conv2d(x, w1[:, :, None, None], b1)
        return F.conv2d(F.gelu(h), w2[:, :, None, None], b2)

    def channels_last(x: Tensor) -> Tensor:
        h = F.conv2d(x, w1[:, :, None, None], b1)
        # The activation on the memory as it lies.
        h = F.gelu(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.conv2d(h, w2[:, :, None, None], b2)

    def tokens(x: Tensor) -> Tensor:
        return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)

    return {'convolutions': convolutions, 'channels last': channels_last, 'tokens': tokens}


def mixers(arch: Union[str, Sequence[int]], batch: int, size: Tuple[int, int], device: torch.device,
           dtype: torch.dtype, training: bool, channels_last: bool = True,
           groups: Tuple[int, int] = (4, 4), expansion: int = 8, compiled: str = ''
           ) -> Iterator[Contest]:
    """Compare channel mixers alone, at the shapes of each stage.

    Args:
        arch: A member of the family, or its widths.
        batch: Images.
        size: Height and width of the images.
        device, dtype: Of everything.
        training: Forward and backward pass, with CCA; else inference.
        channels_last: Memory format of our input.
        groups, expansion: Of ours and of the authors' construction.
        compiled: Adds ``torch.compile`` of the dense one on tokens, with this backend.
    """
    widths = ARCHS[arch]['embed_dims'] if isinstance(arch, str) else arch
    for stage, dims in enumerate(widths):
        height, width = (side // (4 * 2**stage) for side in size)
        maps = torch.randn(batch, dims, height, width, device=device).to(dtype)
        rows = maps.contiguous(memory_format=torch.channels_last)
        tokens = maps.flatten(2).transpose(1, 2).contiguous()
        mixer = SCHEMEMixer(dims, expansion * dims, groups).to(device, dtype).train(training)
        dense = BlockDiagonalMLP(dims, 4 * dims, 1).to(device, dtype).train(training)
        narrow = BlockDiagonalMLP(dims, 2 * dims, 1).to(device, dtype).train(training)
        own, others = list(mixer.parameters()), list(dense.parameters())
        grouped = _grouped(mixer.ffn)
        ours = rows if channels_last else maps
        runs = {OURS: _step(mixer, ours, own, training)}
        if training:
            runs['ours, FFN alone'] = _step(mixer.ffn, ours, list(mixer.ffn.parameters()), True)
        inputs = {'convolutions': maps, 'channels last': rows, 'tokens': tokens}
        for name, run in _dense(dense).items():
            runs[f'dense e4, {name}'] = _step(run, inputs[name], others, training)
        if compiled:
            run = torch.compile(_dense(dense)['tokens'], backend=compiled)
            runs['dense e4, tokens, compiled'] = _step(run, tokens, others, training)
        runs['narrow e2, tokens'] = _step(_dense(narrow)['tokens'], tokens,
                                          list(narrow.parameters()), training)
        if training:
            runs['authors\''] = _step(_with_cca(grouped, mixer), maps, own, True)
        else:
            runs['authors\''] = _step(grouped, maps, own, False)
        if groups[0] == groups[1]:
            batched = partial(block_diagonal_mlp, **mixer.ffn.arguments(),
                              implementation='batched')
            runs['batched matmul'] = _step(batched, tokens, list(mixer.ffn.parameters()), training)
        positions = batch * height * width
        layers = positions * expansion * dims**2 * sum(1 / g for g in groups)
        weights = sum(p.numel() for p in own)
        if training:  # the gradients cost twice the forward pass; CCA two products and three
            macs, values = 3 * layers + 5 * positions * dims**2, 4 * maps.numel() + 2 * weights
        else:
            macs, values = layers, 2 * maps.numel() + weights
        yield Contest(f'stage {stage}: {dims} channels, {height}x{width}', runs, macs,
                      values * maps.element_size())


def backbones(arch: Union[str, Dict[str, Any]], batch: int, size: Tuple[int, int],
              device: torch.device, dtype: torch.dtype, training: bool,
              channels_last: bool = False, compiled: str = '', implementation: str = 'auto'
              ) -> Contest:
    """Compare whole backbones: ours, its dense sister and mmpretrain's PoolFormer.

    Args:
        arch, batch, size, device, dtype, training: As for :func:`mixers`.
        channels_last: Memory format of the images.
        compiled: Adds ``torch.compile`` of ours and of the dense one, with this backend.
        implementation: Of the channel mixers of ours and of the dense one.
    """
    settings: Any = {}
    try:
        from mmpretrain.models import PoolFormer
        settings = PoolFormer.arch_settings
    except (ImportError, TypeError) as e:  # the latter beside a transformers that is too new
        print(f'no PoolFormer, {type(e).__name__}: {e}')
    ours = SCHEMEformer(arch, implementation=implementation)
    dense = SCHEMEformer(arch, implementation=implementation, **DENSE)
    models: Dict[str, nn.Module] = {
        OURS: ours, 'dense PPAA': dense,
        'narrow PPAA': SCHEMEformer(arch, implementation=implementation, **NARROW)}
    if implementation != 'plain':
        models['ours, plain'] = SCHEMEformer(arch, implementation='plain')
        models['dense PPAA, plain'] = SCHEMEformer(arch, implementation='plain', **DENSE)
    if isinstance(arch, str) and arch in settings:
        models['PoolFormer'] = PoolFormer(arch, out_indices=(0, 2, 4, 6), frozen_stages=-1)
    x = torch.randn(batch, 3, *size, device=device).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    runs = {}
    for name, model in models.items():
        model.to(device, dtype).train(training)
        runs[name] = _step(model, x, list(model.parameters()), training)
    if compiled:
        for name in (OURS, 'dense PPAA'):
            model = torch.compile(models[name], fullgraph=True, backend=compiled)
            runs[f'{name}, compiled'] = _step(model, x, list(model.parameters()), training)
    return Contest(f'{arch}, {batch} x {size[0]}x{size[1]}', runs)
