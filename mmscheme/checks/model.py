"""The model of a run, and the sizes of its images."""
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from mmengine import Config
from mmengine.registry import METRICS
from torch import nn

from mmscheme.engine.hooks.mixing_weights_hook import find_mixers
from mmscheme.engine.runners.randomness import keep_random_numbers
from mmscheme.layers import SharedExpertFFN
from mmscheme.models.loading import build_model
from mmscheme.models.utils.ffn import SCHEMEFFN
from mmscheme.utils.config_query import (
    as_list,
    find_class,
    inner_model,
    iter_datasets,
    iter_hooks,
    step_name,
)

from .findings import Findings

__all__ = ['build_for_checks', 'check_cca', 'check_ignored', 'check_sizes']


def build_for_checks(cfg: Config, findings: Findings) -> Optional[nn.Module]:
    """Build the model of a config on the CPU; return None if that fails."""
    with keep_random_numbers():
        try:
            model = build_model(cfg)
        except Exception as e:
            kind = '' if isinstance(e, (ValueError, TypeError)) else f'{type(e).__name__}: '
            findings.error(f'{kind}{e.args[0] if isinstance(e, KeyError) and e.args else e}',
                           cause=e)
            return None
    return getattr(model, 'module', model)


def check_cca(cfg: Config, model: nn.Module, training: bool, findings: Findings) -> None:
    """Check that hooks take guides out of training, and that CCA sees one image at a time."""
    if not training:
        return  # evaluation drops CCA
    _check_hooks({step_name(hook) for _, hook in iter_hooks(cfg)}, model, findings)
    for name, layer in model.named_modules():
        parts: List[nn.Module] = []
        for child in layer.children() if not isinstance(layer, nn.ModuleList) else ():
            parts += child if isinstance(child, nn.ModuleList) else [child]
        # The layer itself or its attention says so, whatever they are called.
        told = [m for m in (layer, *parts) if getattr(m, 'batch_first', True) is False]
        if told and any(isinstance(p, SCHEMEFFN) and p.batch_first for p in parts):
            text = (f'{name}: its tokens are (N, B, C), so CCA would mix the images of a batch: '
                    'set batch_first=False in ffn_cfgs, beside SCHEMEFFN')
            if all(isinstance(m, nn.MultiheadAttention) for m in told):
                findings.warn(text)  # the layer may turn its tokens for torch's attention alone
            else:
                findings.error(text)


def _check_hooks(hooks: Set[str], model: nn.Module, findings: Findings) -> None:
    mixers = find_mixers(model)
    dense = sum(m.cca is None for m in mixers.values())
    experts = [m for m in model.modules() if isinstance(m, SharedExpertFFN)
               and m.importance_weight + m.load_weight > 0]
    if experts and 'AuxiliaryLossHook' not in hooks:
        findings.warn(
            f'{len(experts)} FFNs have experts, but no hook adds their auxiliary losses: a few '
            "experts may get all tokens; set custom_hooks=[dict(type='mmscheme."
            "AuxiliaryLossHook')]")
    if not mixers or 'MixingScheduleHook' in hooks:
        return
    if dense:
        findings.error(
            f'{dense} blocks have a dense guide and no hook takes it out: their block-diagonal '
            'weights, which evaluation uses alone, would not be trained; set default_hooks.'
            "mixing_schedule=dict(type='mmscheme.MixingScheduleHook')")
    else:
        findings.warn(
            f'{len(mixers)} blocks have CCA, but no hook lowers its weight: evaluation, without '
            'CCA, would not compute what training does; set default_hooks.mixing_schedule='
            "dict(type='mmscheme.MixingScheduleHook', decay=(0.5, 0.9)), or cca=False")


def check_ignored(cfg: Config, model: nn.Module, splits: Sequence[str], findings: Findings
                  ) -> None:
    """Compare the labels that the heads of a segmenter ignore with padding and evaluators.

    Few images may be padded or have void pixels, so a rehearsal may meet none.
    """
    told = {f'{split}_evaluator.ignore_index': evaluator.get('ignore_index', 255)
            for split in ('val', 'test') if split in splits
            for evaluator in as_list(cfg.get(f'{split}_evaluator'))
            if 'IoUMetric' in (c.__name__ for c in getattr(find_class(
                METRICS, (evaluator or {}).get('type')), '__mro__', ()))}
    padding = getattr(getattr(model, 'data_preprocessor', None), 'seg_pad_val', None)
    if told and 'train' in splits and padding is not None:
        told['model.data_preprocessor.seg_pad_val'] = padding
    heads = [(name, head.ignore_index, head.num_classes) for name, head in model.named_modules()
             if isinstance(getattr(head, 'ignore_index', None), int)
             and isinstance(getattr(head, 'num_classes', None), int)]
    for place, value in told.items():
        name, ignored, classes = next((h for h in heads if h[1] != value), ('', value, 0))
        if not name or value is None:
            continue
        pads = place.endswith('seg_pad_val')
        text = (f'{place}={value}, but model.{name}.ignore_index={ignored}, so '
                + ('padding' if pads else f'label {ignored}')
                + ' would not be ignored: set both to the same id')
        if value >= classes and (pads or ignored >= classes):
            findings.error(text)
        else:
            findings.warn(text)  # a class may be ignored, or padded with, on purpose


def check_sizes(cfg: Config, findings: Findings) -> None:
    """Compare the crop of training with the size that mmsegmentation pads to."""
    preprocessor = inner_model(cfg.model).get('data_preprocessor') or \
        cfg.get('data_preprocessor') or {}
    if not isinstance(preprocessor, dict) or \
            not step_name(preprocessor).endswith('SegDataPreProcessor'):
        return
    size, divisor = preprocessor.get('size'), preprocessor.get('size_divisor')
    if (size is None) == (divisor is None):
        findings.error('data_preprocessor: expected either size or size_divisor, found '
                       f'size={size}, size_divisor={divisor}')
        return
    for crop in sorted({c for d in iter_datasets(cfg, ('train', )) if (c := _crop(d))}):
        name = f'crop_size={crop} of training is'
        if size is not None and (crop[0] > size[0] or crop[1] > size[1]):
            findings.error(f'{name} is larger than size={tuple(size)} of the data_preprocessor, so '
                           'images of a batch would have different sizes: set '
                           f'model.data_preprocessor.size={crop}')
        elif size is not None and crop != tuple(size):
            findings.warn(f'{name} is smaller than size={tuple(size)} of the data_preprocessor: '
                          'all images will be padded')
        step = divisor or 32
        if any(side % step for side in crop):
            findings.warn(f'{name} no multiple of {step}'
                          + (' (size_divisor): all images will be padded' if divisor else
                             ', the usual stride of the last stage'))


def _crop(dataset: Dict[str, Any]) -> Optional[Tuple[int, ...]]:
    """Return height and width of the last crop in a pipeline."""
    sizes: Sequence[Any] = [step['crop_size'] for step in dataset.get('pipeline') or []
                            if step_name(step).endswith('RandomCrop') and step.get('crop_size')]
    if not sizes:
        return None
    crop = (sizes[-1], ) * 2 if isinstance(sizes[-1], int) else tuple(sizes[-1])
    return crop if len(crop) == 2 else None
