"""Weights of the MetaFormer family in other people's layouts, and ours in timm's.

One layout serves sail-sg's PoolFormer and MetaFormer, the authors' SCHEMEformer, which
is built on it, and mmpretrain's PoolFormer: ``patch_embed.proj``, then a list ``network``
of stages, of convolutions ``proj`` between them and, in some classifiers, of a position
embedding before a stage.
"""
import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from mmscheme.models import ARCHS, SCHEMEformer
from mmscheme.models.backbones.schemeformer import POS_EMBED_STAGE
from mmscheme.utils.checkpoint_io import compare_state_dicts

__all__ = ['NORMS', 'Converted', 'from_metaformer', 'to_timm']

#: Norm layers of the sources, which their weights do not tell apart.
NORMS: Dict[str, Dict[str, Any]] = dict(
    group=dict(type='GN', num_groups=1),
    # Over the channels of each position, as sail-sg's metaformer_ppaa_s12_224 has it.
    layer=dict(type='mmpretrain.LN2d', eps=1e-5))

# The weights of a block in the sources.
_BLOCK_KEYS = re.compile(
    r'norm[12]\.(weight|bias)|layer_scale_[12]|token_mixer\.(qkv\.weight|proj\.(weight|bias))'
    r'|mlp\.fc[12]\.(weight|bias)')
_MIXING = 'mlp.weight_soft'

# The start of our names, and of timm's; what timm has no name for keeps ours.
_TIMM_NAMES = (
    (r'downsamples\.0\.', 'stem.conv.'),
    (r'downsamples\.(\d+)\.', r'stages.\1.downsample.conv.'),
    (r'stages\.(\d+)\.(\d+)\.(layer_scale\d)$', r'stages.\1.blocks.\2.\3.scale'),
    (r'stages\.(\d+)\.(\d+)\.channel_mixer\.ffn\.', r'stages.\1.blocks.\2.mlp.'),
    (r'stages\.(\d+)\.(\d+)\.(norm|token_mixer\.)', r'stages.\1.blocks.\2.\3'),
    (r'norm3\.', 'head.norm.'),
    (r'(norm[0-2]\.|pos_embed$|head\.fc\.)', r'\1'))


class Converted(NamedTuple):
    """Weights under the names of this project.

    Attributes:
        state_dict: Weights ``backbone.*`` and, if the source has a head, ``head.fc.*``.
        backbone: The config of the backbone that they belong to.
        mixing: By block, ``1 - alpha`` at the end of the source's training; empty without
            CCA.
    """
    state_dict: Dict[str, Tensor]
    backbone: Dict[str, Any]
    mixing: Dict[str, float]


def from_metaformer(weights: Dict[str, Tensor], norm: Optional[str] = None,
                    keep_alpha: bool = False) -> Converted:
    """Convert PoolFormer, MetaFormer-PPAA and the authors' SCHEMEformer.

    Architecture, groups and expansion are inferred from the weights. In evaluation, the
    converted model computes what the source computes, with one exception: the authors'
    mixers with a dense first layer keep CCA in evaluation, and compute it from wrongly
    ordered values (``X.reshape(N, C)`` instead of the transpose). Here, CCA is that of the
    paper; if ``1 - alpha`` has fallen to 0, there is no difference. A token mixer without
    weights is assumed to be pooling, although an IdentityFormer has the same keys.

    Args:
        weights: Tensors by key, also with the prefixes ``module.`` and ``backbone.``.
        norm: ``'group'`` or ``'layer'``, see :data:`NORMS`. By default ``'layer'`` for
            attention with dense FFNs of expansion 4 (MetaFormer-PPAA of sail-sg), else
            ``'group'``.
        keep_alpha: Keep alpha and CCA, to continue training. By default, the converted
            model leaves out alpha, as the authors' mixers with two block-diagonal layers do
            in evaluation.

    Returns:
        Weights and config.

    Raises:
        ValueError: The weights belong to another model; the message names a key.
    """
    if norm not in (None, *NORMS):
        raise ValueError(f'norm: expected one of {sorted(NORMS)}, found {norm!r}')
    weights = {re.sub(r'^(module\.)?(backbone\.)?', '', k): v for k, v in weights.items()}
    if 'patch_embed.proj.weight' not in weights:
        raise ValueError('expected weights of PoolFormer, MetaFormer or SCHEMEformer with a key '
                         f'patch_embed.proj.weight, found {sorted(weights)[:3]}')
    stages = _number_stages(weights)
    state: Dict[str, Tensor] = {}
    mixing: Dict[str, float] = {}
    keep_cca = False
    for key, value in weights.items():
        new = _rename(key, stages)
        if key.endswith(_MIXING):
            block = new.removesuffix('.channel_mixer.mixing')
            fc1 = weights[key.replace('weight_soft', 'fc1.weight')]
            dense_first = fc1.shape[1] == len(weights[key.replace(_MIXING, 'norm2.weight')])
            keep_cca |= dense_first
            logit = (value[0] - value[1]).reshape(1)
            state[f'{block}.channel_mixer.alpha_logit'] = logit
            state[f'{block}.channel_mixer.cca_factor'] = torch.full_like(
                logit, float(keep_alpha or dense_first))
            mixing[block] = torch.sigmoid(-logit).item()
        else:
            # Convolutions of 1x1 are matrices here.
            state[new] = value.flatten(1) if '.ffn.' in new and value.dim() == 4 else value
    settings = _settings(state, norm, bool(mixing), keep_cca)
    _check(state, settings)
    return Converted({k if k.startswith('head.') else f'backbone.{k}': v
                      for k, v in state.items()}, settings, mixing)


def _number_stages(weights: Dict[str, Tensor]) -> Dict[int, Tuple[str, int]]:
    """Find out which entry of ``network`` is blocks, a step down or an embedding; its stage."""
    kinds: Dict[int, str] = {}
    for key in weights:
        found = re.match(r'network\.(\d+)\.(\d+\.|proj\.|pos_embed$)', key)
        if found:
            kinds[int(found[1])] = {'proj.': 'down', 'pos_embed': 'embed'}.get(found[2], 'blocks')
    stages, stage = {}, 0
    for index in sorted(kinds):
        # A step down and an embedding come before the blocks of their stage.
        stages[index] = (kinds[index], stage)
        stage += kinds[index] == 'blocks'
        if kinds[index] == 'embed' and stages[index][1] != POS_EMBED_STAGE:
            raise ValueError(f'network.{index}.pos_embed: expected a position embedding before '
                             f'stage {POS_EMBED_STAGE} (counted from 0), found one before stage '
                             f'{stages[index][1]}')
    if stage != 4:
        raise ValueError(f'expected the blocks of 4 stages under network, found {stage}')
    return stages


def _rename(key: str, stages: Dict[int, Tuple[str, int]]) -> str:
    """Return our name of one of their weights; errors name the key."""
    parts = key.split('.')
    if parts[0] == 'patch_embed' and parts[1] == 'proj':
        return f'downsamples.0.{parts[2]}'
    if parts[0] == 'head':
        return f'head.fc.{parts[-1]}'
    if parts[0] == 'norm':
        return f'norm3.{parts[1]}'
    if re.fullmatch('norm[0246]', parts[0]):    # by position in network
        return f'norm{int(parts[0][4:]) // 2}.{parts[1]}'
    kind, stage = stages.get(int(parts[1]), ('', 0)) if parts[0] == 'network' else ('', 0)
    if kind == 'embed':
        return 'pos_embed'
    if kind == 'down':
        return f'downsamples.{stage}.{parts[3]}'
    leaf = '.'.join(parts[3:])
    if kind == 'blocks' and leaf == _MIXING:
        return f'stages.{stage}.{parts[2]}.channel_mixer.mixing'
    if kind == 'blocks' and _BLOCK_KEYS.fullmatch(leaf):
        leaf = leaf.replace('mlp.', 'channel_mixer.ffn.').replace('layer_scale_', 'layer_scale')
        return f'stages.{stage}.{parts[2]}.{leaf}'
    raise ValueError(f'{key}: not a weight of a SCHEMEformer; of the token mixers, pooling and '
                     'attention are known, of the channel mixers, the block-diagonal FFN with and '
                     'without CCA')


def _settings(state: Dict[str, Tensor], norm: Optional[str], cca: bool, keep_cca: bool
              ) -> Dict[str, Any]:
    """Read the config of the backbone off the shapes."""
    dims = tuple(len(state[f'downsamples.{i}.weight']) for i in range(4))
    blocks = [{int(k.split('.')[2]) for k in state if k.startswith(f'stages.{i}.')}
              for i in range(4)]
    depths = tuple(len(b) for b in blocks)
    mixers = tuple('attention' if f'stages.{i}.0.token_mixer.qkv.weight' in state else 'pool'
                   for i in range(4))
    fc1, fc2 = (state[f'stages.0.0.channel_mixer.ffn.fc{i}.weight'] for i in (1, 2))
    groups = (dims[0] // fc1.shape[1], len(fc1) // fc2.shape[1])
    expansion: Any = len(fc1) / dims[0]
    expansion = int(expansion) if expansion.is_integer() else expansion
    layer_norm = groups == (1, 1) and expansion == 4 and 'attention' in mixers
    outputs = tuple(i for i in range(4) if f'norm{i}.weight' in state)
    arch: Any = dict(depths=depths, embed_dims=dims, token_mixers=mixers)
    for name, known in ARCHS.items():
        if all(tuple(known[k]) == v for k, v in arch.items()):
            arch = name
    settings = dict(type='mmscheme.SCHEMEformer', arch=arch, groups=groups, expansion=expansion,
                    cca=cca, norm_cfg=NORMS[norm or ('layer' if layer_norm else 'group')],
                    out_indices=outputs)
    if keep_cca:
        settings['keep_cca'] = True
    if 'pos_embed' in state:
        settings['pos_embed'] = tuple(state['pos_embed'].shape[2:])
    return settings


def _check(state: Dict[str, Tensor], settings: Dict[str, Any]) -> None:
    """Check that every weight has its place in the backbone, and every place its weight."""
    with torch.device('meta'):
        backbone = SCHEMEformer(**{k: v for k, v in settings.items() if k != 'type'})
    problems = compare_state_dicts(backbone.state_dict(), {
        k: v for k, v in state.items() if not k.startswith('head.')}).problems(most=1)
    if problems:
        raise ValueError('the weights do not fit a SCHEMEformer like the first block: '
                         + '; '.join(problems))


def to_timm(weights: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Convert a SCHEMEformer to the names of timm's ``MetaFormer``, flat and plain.

    Alpha is folded into the second layer, so that the FFN alone computes what the mixer does
    in evaluation. ``mlp.fc1`` and ``mlp.fc2`` are the weights of grouped 1x1 convolutions
    ``(out, in / groups, 1, 1)``; dense ones in attention stages are matrices, because timm
    has linear layers there. timm has no names for the position embedding (``pos_embed``) and
    the norms of the first three outputs (``norm0`` to ``norm2``), so these keep ours. timm's
    ``MetaFormer`` pools before its last norm, but SCHEMEformer and its sources pool after it:
    features are equal, logits are not.

    Args:
        weights: Weights of a backbone, or of a model with ``backbone.*`` and perhaps
            ``head.fc.*``.

    Returns:
        The weights.

    Raises:
        ValueError: They do not belong to a SCHEMEformer; the message names a key.
    """
    weights = {k.removeprefix('module.').removeprefix('backbone.'): v for k, v in weights.items()
               if 'backbone.' in k or not any('backbone.' in other for other in weights)
               or k.removeprefix('module.').startswith('head.fc.')}
    if 'downsamples.0.weight' not in weights:
        raise ValueError('expected weights of a SCHEMEformer with a key downsamples.0.weight, '
                         f'found {sorted(weights)[:3]}')
    state = {}
    for key, value in weights.items():
        if re.search(r'\.channel_mixer\.(alpha_logit$|cca_factor$|guide\.)', key):
            continue
        names = (re.sub(f'^{ours}', theirs, key) for ours, theirs in _TIMM_NAMES
                 if re.match(ours, key))
        name = next(names, None)
        if name is None:
            raise ValueError(f'{key}: not a weight of a SCHEMEformer')
        state[name] = _as_timm(key, value, weights) if '.channel_mixer.ffn.' in key else value
    return state


def _as_timm(key: str, value: Tensor, weights: Dict[str, Tensor]) -> Tensor:
    """Return a weight or bias of an FFN, with alpha in the second layer."""
    block = key.partition('.channel_mixer.')[0]
    logit = weights.get(f'{block}.channel_mixer.alpha_logit')
    if '.fc2.' in key and logit is not None:
        value = value * (1 - weights[f'{block}.channel_mixer.cca_factor']
                         * torch.sigmoid(-logit))
    if not key.endswith(('fc1.weight', 'fc2.weight')):
        return value
    fc1 = weights[f'{block}.channel_mixer.ffn.fc1.weight']
    fc2 = weights[f'{block}.channel_mixer.ffn.fc2.weight']
    dense = fc1.shape[1] == len(fc2) and fc2.shape[1] == len(fc1)
    if dense and f'{block}.token_mixer.qkv.weight' in weights:
        return value
    return value[:, :, None, None]
