"""SCHEME in a stock backbone."""
import inspect
import logging
import math
from collections import Counter
from typing import Any, Collection, Dict, List, Optional, Sequence, Tuple, Union

from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmscheme.layers import SCHEMEMixer, SharedExpertFFN
from mmscheme.layers.block_diagonal import parse_groups
from mmscheme.layers.scheme_mixer import read_guide
from mmscheme.models.utils import DenseMixer, PlugInExperts, PlugInMixer, find_channel_mixers
from mmscheme.models.utils.dense_mixers import describe_unknown, find_dense_pairs
from mmscheme.models.utils.mixer_options import interleave_evens, takes_options_of
from mmscheme.models.utils.trial import Stream, try_backbone
from mmscheme.registry import MODELS
from mmscheme.utils.check_args import (
    check_choice,
    check_count,
    check_flags,
    check_number,
    read_indices,
)

__all__ = ['SCHEMEWrapper']

_AUTO_GROUPS = 4  # the paper's 44
#: By the name of ``mixer=``: layer, its options, and its expansion.
_MIXERS: Dict[str, Tuple[type, Collection[str], float]] = {
    name: (layer, inspect.signature(layer).parameters, expansion)
    for name, layer, expansion in (('scheme', SCHEMEMixer, 8.),
                                   ('shared_expert', SharedExpertFFN, 1.))}


class _StockWeights:
    """Adapt a stock checkpoint before a wrapped backbone loads it.

    Args:
        mixers: Their names in the backbone, and those of the modules that were replaced.
        seed: Whether dense weights become block-diagonal ones.
    """

    def __init__(self, mixers: Dict[str, str], seed: bool) -> None:
        self.mixers = mixers
        self.seed = seed

    def __call__(self, backbone: nn.Module, state_dict: Dict[str, Tensor], prefix: str,
                 *args: Any) -> None:
        found, replaced = 0, {backbone.get_submodule(name): name for name in self.mixers}
        for name, mixer in backbone.named_modules(remove_duplicate=False):
            if mixer not in replaced:
                continue
            # A shared mixer has several names, each of which was one of the dense module.
            first = replaced[mixer]
            stock = name[:len(name) - len(first) + len(self.mixers[first])]
            dense = {key: f'{prefix}{stock}.{key}' for key in mixer.stock_keys}
            if dense[next(iter(dense))] not in state_dict:
                continue
            found += name == first
            if self.seed:
                taken = {key: state_dict.pop(full) for key, full in dense.items()
                         if full in state_dict}
                state_dict.update({f'{prefix}{name}.{key}': value
                                   for key, value in mixer.from_dense(taken).items()})
        if not found:  # weights of this very model
            return
        own = backbone.state_dict()
        missing = [key for key in own if prefix + key not in state_dict]
        kind = ('take the diagonal blocks of the dense ones' if self.seed else
                'have no weights in it and start anew')
        print_log(f'SCHEMEWrapper: weights of the stock {type(backbone).__name__}: '
                  f'{len(own) - len(missing)} of {len(own)} keys found, {found} channel mixers '
                  f'{kind}; missing: {", ".join(missing) or "none"}', logger='current',
                  level=logging.INFO if self.seed else logging.WARNING)


def _find(backbone: nn.Module, kind: str, cca: bool, extra_tokens: Optional[int]
          ) -> Tuple[List[DenseMixer], Dict[str, str]]:
    """Return the mixers to replace, with what is known of their tokens, and those left dense.

    The latter as :func:`~mmscheme.models.utils.dense_mixers.find_dense_pairs` has them.
    """
    if isinstance(backbone, BaseModel):
        raise ValueError(f'backbone: expected a backbone, found the whole model {kind}; wrap only '
                         'its own backbone=')
    if any(isinstance(module, (SCHEMEMixer, SharedExpertFFN)) for module in backbone.modules()):
        raise ValueError(f'backbone: {kind} already has SCHEME mixers or experts')
    found, pairs = find_channel_mixers(backbone), find_dense_pairs(backbone)
    if not found:
        raise ValueError(f'backbone: {kind} has no channel mixer that SCHEME can replace; '
                         + describe_unknown(backbone, pairs))
    covered = tuple(f'{dense.name}.' for dense in found)
    trial = try_backbone(backbone, [*(dense.entry for dense in found), *pairs])
    left = {first: holder for first, holder in pairs.items() if not first.startswith(covered)
            and (trial.problem or trial.follows_image(first))}
    kept = []
    for dense in found:
        stream = trial.streams.get(dense.entry, Stream(True, None, trial.problem))
        if not stream.follows_image:
            continue  # a table of positions goes through it, for example
        extra, problem = dense.adapter.extra_tokens, ''
        if extra is None:
            extra, problem = stream.extra_tokens, stream.problem
        if problem and extra_tokens is not None:
            extra, problem = extra_tokens, ''
        if problem and cca and not isinstance(dense.layers[0], nn.Conv2d):
            raise ValueError(
                f'extra_tokens: {dense.name} of {kind}: cannot tell class tokens, which CCA leaves '
                f'out, from positions: {problem}. Give their number as extra_tokens=, to the '
                'wrapper or in the Adapter, or cca=False')
        kept.append(dense._replace(extra_tokens=0 if problem else extra))
    if not kept:
        raise ValueError(f'backbone: no channel mixer of {kind} sees the image')
    return kept, left


def _check_groups(dense: DenseMixer, groups: Tuple[int, int], hidden_dims: int,
                  all_widths: Sequence[Tuple[int, int]]) -> None:
    channels = dense.widths[0]
    common = math.gcd(channels, hidden_dims)
    if not any(common % g for g in groups):
        return
    everywhere = _divisors(math.gcd(*(width for widths in all_widths for width in widths)))
    raise ValueError(
        f'{dense.name}: {channels} channels and {hidden_dims} hidden ones do not divide into '
        f'groups={groups}; both divide by {_divisors(common)}, the widths of all channel mixers by '
        f"{everywhere}; groups='auto' takes the most that each allows, up to {_AUTO_GROUPS}")


def _divisors(number: int) -> List[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@MODELS.register_module()
@takes_options_of(*(layer for layer, *_ in _MIXERS.values()))
def SCHEMEWrapper(backbone: Union[dict, nn.Module],
                  groups: Union[int, Sequence[int], str] = (4, 4), *,
                  mixer: str = 'scheme', expansion: Union[float, str, None] = 'auto',
                  stages: Union[int, Sequence[int], None] = None, seed_from_dense: bool = False,
                  extra_tokens: Optional[int] = None, strict: bool = False, **options: Any
                  ) -> nn.Module:
    """Replace the channel mixers of a stock backbone by SCHEME mixers, or shared-expert FFNs.

    This is a function that returns the backbone itself, not a module around it.

    In a config: ``backbone=dict(type='mmscheme.SCHEMEWrapper', backbone=dict(type=...))``.
    Only the layers of the channel mixers change. Outputs, ``train()``, ``frozen_stages``,
    ``init_cfg``, layer decay and the names of all other parameters stay those of the stock
    backbone. Residuals, layer scale and drop path stay in place; activation and dropout are
    taken over. :data:`mmscheme.models.utils.ADAPTERS` has the families, and ``docs/support.md``
    what becomes of each. In gated FFNs such as SwiGLU, gate and values are both block-diagonal.

    Weights of the stock backbone load as before; the log then lists what is missing.

    The Gram matrix of CCA is a sum over the positions that a mixer gets: those of the whole
    map, even if attention works in windows; in MobileViT and the inner blocks of TNT, those of
    one sequence. Class, distillation and register tokens are left out of the sum, but their
    channels are mixed by the same attention matrix. To tell them from positions, and to leave
    alone the modules that the image does not reach, a copy of the backbone is run on two small
    images; if that fails, an error asks for ``extra_tokens``. A mixer that gets only a class
    token has no CCA.

    Args:
        backbone: Config of the stock backbone, or the module, which is changed in place.
        groups: Groups of the two layers of each SCHEME mixer, or one number for both. ``'auto'``
            uses as many as the widths of each mixer can be divided into, up to 4.
        mixer: ``'scheme'``, or ``'shared_expert'`` for :class:`mmscheme.layers.SharedExpertFFN`,
            which replaces FFNs without norms and convolutions inside. Its losses need
            ``mmscheme.AuxiliaryLossHook``, which our configs have.
        expansion: Hidden channels as a multiple of the channels (in a gated FFN, those of the
            values); None keeps those of the stock backbone. ``'auto'`` is 8, with experts 1.
        stages: Stages whose mixers are replaced; all by default. A stage is one width of
            channels, counted from 0 in the order of appearance.
        seed_from_dense: Start from the diagonal blocks of the dense layers, times the square
            root of ``groups``, and take the same from stock checkpoints. Needs the hidden
            width of the stock backbone, and SCHEME mixers whose channels are not interleaved.
        extra_tokens: Number of leading tokens of each mixer's input that are not positions, if
            neither its adapter nor the trial run can tell.
        strict: Raise an error if a channel mixer stays dense, instead of a warning.
        options: Options of the mixers, such as ``cca`` and ``keep_cca``; see
            :class:`mmscheme.layers.SCHEMEMixer` and :class:`mmscheme.layers.SharedExpertFFN`.

    Returns:
        The backbone.

    Raises:
        TypeError: ``backbone`` is neither; ``mixer`` has no such option.
        ValueError: There is nothing to replace; ``backbone`` is a whole model; tokens cannot be
            told apart; widths cannot be divided by ``groups``; a stage does not exist;
            ``seed_from_dense`` with another hidden width, mixer or order of channels.
    """
    check_flags(seed_from_dense=seed_from_dense, strict=strict)
    check_choice('mixer', mixer, _MIXERS)
    layer, known, usual = _MIXERS[mixer]
    for name in options:
        if name not in known:
            raise TypeError(f'{name}: no option of mixer={mixer!r}')
    is_scheme = layer is SCHEMEMixer
    if seed_from_dense and (not is_scheme or options.get('interleave')):
        raise ValueError('seed_from_dense: expected mixer=\'scheme\' and interleave=False, whose '
                         'blocks are those on the diagonal')
    if isinstance(backbone, dict) and 'type' in backbone:
        try:
            backbone = MODELS.build(backbone)
        except KeyError as e:  # no such type
            raise ValueError(f'backbone: {e.args[0]}') from e
    if not isinstance(backbone, nn.Module):
        raise TypeError('backbone: expected a config with a type or a module, found '
                        f'{type(backbone).__name__}')
    if extra_tokens is not None:
        check_count('extra_tokens', extra_tokens, 0)
    kind = type(backbone).__name__
    has_cca = is_scheme and read_guide(**options) == 'cca'
    found, left = _find(backbone, kind, has_cca, extra_tokens)
    if left:
        text = (f'{kind}: {len(left)} channel mixers stay dense: {", ".join(left.values())}; '
                + describe_unknown(backbone, left))
        if strict:
            raise ValueError(f'strict: {text}')
        print_log(f'SCHEMEWrapper: {text}', logger='current', level=logging.WARNING)
    widths = list(dict.fromkeys(dense.widths[0] for dense in found))
    if stages is not None:
        stages = read_indices('stages', stages, len(widths),
                              f'some of {list(range(len(widths)))}, the stages of {kind} with '
                              f'{widths} channels')
        found = [dense for dense in found if widths.index(dense.widths[0]) in stages]

    pair = None
    if not isinstance(groups, str):
        pair = parse_groups(groups)
    elif groups != 'auto':
        raise ValueError(f"groups: expected a number, a pair of them or 'auto', found {groups!r}")
    multiple: Any = usual if expansion == 'auto' else expansion
    if multiple is not None:
        check_number('expansion', multiple, "a number between 0 and 10000, 'auto' or None",
                     lambda n: 0 < n < 10000)
    hidden = [dense.widths[1] if multiple is None else round(multiple * dense.widths[0])
              for dense in found]
    for dense, hidden_dims in zip(found, hidden):
        if pair and is_scheme:
            _check_groups(dense, pair, hidden_dims,
                          [(d.widths[0], h) for d, h in zip(found, hidden)])
        if seed_from_dense and hidden_dims != dense.widths[1]:
            raise ValueError(
                f'{dense.name}: seed_from_dense needs the {dense.widths[1]} hidden channels of '
                f'the stock backbone, found {hidden_dims}; expansion=None keeps them')
    names: Dict[str, str] = {}
    seen: Counter = Counter()
    for dense, hidden_dims in zip(found, hidden):
        most = max(g for g in range(1, _AUTO_GROUPS + 1)
                   if math.gcd(dense.widths[0], hidden_dims) % g == 0)
        plugged = (PlugInMixer(dense, hidden_dims, pair or (most, most), **interleave_evens(
            options, seen[dense.widths[0]])) if is_scheme
                   else PlugInExperts(dense, hidden_dims, **options))
        seen[dense.widths[0]] += 1
        if seed_from_dense:
            plugged.load_state_dict(plugged.from_dense(dense.module.state_dict()), strict=False)
        names[plugged.take_place(backbone, dense)] = dense.name
    backbone.register_load_state_dict_pre_hook(_StockWeights(names, seed_from_dense))
    print_log(f'SCHEMEWrapper: {len(names)} channel mixers of {kind} replaced', logger='current')
    return backbone
