"""Find out what a backbone's channel mixers are given, by running it on small images."""
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['Stream', 'Trial', 'try_backbone']

# The first that the backbone takes, beside those that it names.
_SIZES = (64, 224)


class Stream(NamedTuple):
    """The input of a mixer.

    Attributes:
        follows_image: Whether it depends on the image at all.
        extra_tokens: How many tokens come before the positions; None: none is a position.
        problem: Why ``extra_tokens`` cannot be told; empty where it can.
    """
    follows_image: bool
    extra_tokens: Optional[int]
    problem: str = ''


class Trial(NamedTuple):
    """Results of a trial.

    Attributes:
        streams: By the names of the mixers that were called.
        problem: Why the backbone did not run; empty where it did.
    """
    streams: Dict[str, Stream]
    problem: str = ''

    def follows_image(self, name: str) -> bool:
        """Return True for a module that was called and whose input depends on the image."""
        return name in self.streams and self.streams[name].follows_image


class _AttentionOff(torch.overrides.TorchFunctionMode):
    """Set what attention adds to a token to zero, so that each keeps what it began with."""

    _SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}

    def __torch_function__(self, func: Any, types: Any, args: Any = (),
                           kwargs: Optional[dict] = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in self._SOFTMAX or func is F.scaled_dot_product_attention:
            return torch.zeros_like(out)
        if func is F.multi_head_attention_forward:
            return (torch.zeros_like(out[0]), *out[1:])
        return out


@contextmanager
def _in_plain_attention() -> Iterator[None]:
    """Keep torch's fused attention, which calls no softmax, out of the trial."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _named_sizes(backbone: nn.Module) -> List[int]:
    sizes: List[int] = []
    for module in backbone.modules():
        for key in ('img_size', 'image_size', 'input_resolution'):
            size = getattr(module, key, None)
            size = size[0] if isinstance(size, (tuple, list)) and size else size
            if isinstance(size, int) and 16 <= size <= 640 and size not in sizes:
                sizes.append(size)
    return sizes


def _inputs(backbone: nn.Module, names: Sequence[str], images: Tensor,
            attention: bool) -> Dict[str, List[Tensor]]:
    """Return what each mixer is given, call by call."""
    found: Dict[str, List[Tensor]] = {}
    with ExitStack() as stack:
        for name in names:
            handle = backbone.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name: found.setdefault(name, []).append(
                    args[0].detach().clone()))
            stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(_in_plain_attention())
        if not attention:
            stack.enter_context(_AttentionOff())
        backbone(images)
    return found


def _leading(before: Tensor, after: Tensor) -> Tuple[Optional[int], str]:
    """Return how many leading tokens are the same for both batches; the first image is."""
    changed = (before != after).any(-1)
    half = changed.shape[0] // 2
    if changed.shape[0] % 2 or changed[:half].any():
        return None, 'its first axis does not hold the samples of the batch'
    rows = changed[half:]
    if not (rows == rows[:1]).all():
        rows = rows.any(0, keepdim=True) if rows.any(0).all() else rows
    if not (rows == rows[:1]).all():
        return None, 'its extra tokens are not those of the same places in each sample'
    row = rows[0].int()
    extra = int((row.cumsum(0) == 0).sum())
    if extra == len(row):
        return None, ''
    if not row[extra:].all():
        return None, 'its extra tokens do not come before all positions'
    return extra, ''


def _stream(full: List[Tuple[Tensor, Tensor]], alone: List[Tuple[Tensor, Tensor]]) -> Stream:
    if all(a.equal(b) for a, b in full):
        return Stream(False, None)
    results = {(0, '') if a.dim() > 3 else _leading(a, b) if a.dim() == 3 else
               (None, f'it has {a.dim()} axes') for a, b in alone}
    if len(results) > 1:
        return Stream(True, None, 'its calls differ')
    return Stream(True, *results.pop())


def try_backbone(backbone: nn.Module, names: Sequence[str]) -> Trial:
    """Run a copy of a backbone and see which tokens of its mixers are positions.

    Two batches differ in their second image. With attention turned off no token learns of
    another, so a class token stays the same where the image changes and a position does not.

    Args:
        backbone: Not changed.
        names: Names of the mixers.

    Returns:
        What was found, or why the backbone did not run.
    """
    if any(t.is_meta for t in (*backbone.parameters(), *backbone.buffers())):
        return Trial({}, 'it is on the meta device')
    copy, problem = deepcopy(backbone).cpu().float(), ''
    copy.eval()  # some return nothing
    _excite(copy)
    random = torch.Generator().manual_seed(0)
    channels = next((m.in_channels for m in copy.modules() if isinstance(m, nn.Conv2d)), 3)
    for size in dict.fromkeys((_SIZES[0], *_named_sizes(backbone), *_SIZES[1:])):
        first, second, third = torch.randn(3, channels, size, size, generator=random)
        batches = torch.stack([first, second]), torch.stack([first, third])
        try:
            with torch.random.fork_rng(devices=[]):
                runs = [[_inputs(copy, names, images, attention) for images in batches]
                        for attention in (True, False)]
        except Exception as e:  # whatever a backbone of somebody's raises
            problem = problem or f'{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ""}'
            continue
        (full, other), (alone, alone_other) = runs
        return Trial({name: _stream(list(zip(full[name], other[name])),
                                    list(zip(alone[name], alone_other[name])))
                      for name in full})
    return Trial({}, problem)


def _excite(backbone: nn.Module) -> None:
    """Move parameters away from zero and from each other: what is zero shows nothing."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in backbone.parameters():
            if p.is_floating_point():
                p += 0.02 * torch.randn(p.shape, generator=random)
