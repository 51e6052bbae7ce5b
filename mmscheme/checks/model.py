"""Checks of a model: the channels that its parts give and those that the next ones expect."""
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine import Config
from torch import Tensor, nn

from mmscheme.engine.runners.randomness import keep_random_numbers
from mmscheme.models.loading import build_model
from mmscheme.utils.config_query import as_list, inner_model, iter_datasets, step_name

from .findings import Findings

__all__ = ['build_for_checks', 'check_channels', 'check_sizes']

# Sides of the image that a backbone is tried with, until it accepts one.
_SIDES = (64, 224)


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


def check_channels(cfg: Config, model: nn.Module, findings: Findings) -> None:
    """Run backbone and neck, and compare their channels with those of the parts that follow."""
    backbone, neck = getattr(model, 'backbone', None), getattr(model, 'neck', None)
    if not isinstance(backbone, nn.Module):
        return
    parts = inner_model(cfg.model)
    with keep_random_numbers(), torch.no_grad():
        maps = _try(backbone, (parts.get('backbone') or {}).get('in_channels', 3), findings)
        if maps is None:
            return
        given = _Given('backbone', _channels(maps), findings)
        if isinstance(neck, nn.Module):
            neck_cfg = parts.get('neck')
            told = neck_cfg.get('in_channels') if isinstance(neck_cfg, dict) else None
            if told is not None and not given.check('neck', told):
                return
            try:
                given = _Given('neck', _channels(neck(maps)), findings)
            except Exception as e:
                findings.warn(f'neck: could not be tried on the maps of the backbone ({e})')
                return
    if given.channels:
        given.check_heads(model, parts)


def _try(backbone: nn.Module, channels: Any, findings: Findings) -> Any:
    channels = channels if isinstance(channels, int) and channels > 0 else 3
    error: Optional[Exception] = None
    for side in _SIDES:
        try:
            return backbone(torch.zeros(1, channels, side, side))
        except Exception as e:
            error = e
    findings.warn(f'backbone: could not be tried on a small image ({error}); in_channels of the '
                  'heads are not checked')
    return None


def _channels(outputs: Any) -> List[int]:
    """Return the channels of each output; of a pair of map and class token the last counts."""
    channels: List[int] = []
    for item in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
        while isinstance(item, (list, tuple)) and item:
            item = item[-1]
        if isinstance(item, Tensor) and item.dim() in (2, 4):
            channels.append(item.shape[1])
    return channels


class _Given:
    """The channels of the outputs of a backbone or neck."""

    def __init__(self, giver: str, channels: List[int], findings: Findings) -> None:
        self.giver, self.channels, self.findings = giver, channels, findings

    def error(self, place: str, found: str, given: Any, key: str = 'in_channels') -> None:
        self.findings.error(f'{place}: {found}, the {self.giver} gives {given}: set '
                            f'model.{place}.{key}')

    def check(self, place: str, told: Any) -> bool:
        """Compare a part that takes all outputs or the last."""
        many = isinstance(told, (list, tuple))
        told = list(told) if many else told
        expected = self.channels if many else self.channels[-1:]
        if not self.channels or told == expected or [told] == expected:
            return True
        self.error(place, f'in_channels={told}', expected if many else expected[0])
        return False

    def check_heads(self, model: nn.Module, cfg: Dict[str, Any]) -> None:
        # Cascaded heads hand results on, so only the first of them sees these maps.
        for head in as_list(cfg.get('decode_head'))[:1]:
            self.check_segmentation_head(head, 'decode_head')
        for head in as_list(cfg.get('auxiliary_head')):
            self.check_segmentation_head(head, 'auxiliary_head')
        for place in ('rpn_head', 'bbox_head', 'mask_head'):
            head, told = getattr(model, place, None), as_list(cfg.get(place))[:1]
            if isinstance(head, nn.Module) and told and isinstance(told[0].get('in_channels'), int):
                self.check_dense_head(head, told[0]['in_channels'], place)
        if isinstance(cfg.get('roi_head'), dict):
            for kind in ('bbox', 'mask'):
                self.check_roi_head(cfg['roi_head'], kind)
        head = cfg.get('head')
        if isinstance(head, dict) and isinstance(head.get('in_channels'), int):
            self.check('head', head['in_channels'])

    def check_segmentation_head(self, head: Dict[str, Any], place: str) -> None:
        told, index = head.get('in_channels'), head.get('in_index', -1)
        if told is None:
            return
        try:
            expected: Any = [self.channels[i] for i in index] \
                if isinstance(index, (list, tuple)) else self.channels[index]
        except (IndexError, TypeError):
            self.error(place, f'in_index={index}', f'{len(self.channels)} maps', 'in_index')
            return
        told = list(told) if isinstance(told, (list, tuple)) else told
        if told != expected:
            self.error(place, f'in_channels={told}', f'{expected} (in_index={index})')

    def check_dense_head(self, head: nn.Module, told: int, place: str) -> None:
        if any(c != told for c in self.channels):
            self.error(place, f'in_channels={told}', self.channels)
        strides = getattr(getattr(head, 'prior_generator', None), 'strides', None)
        if strides is not None and len(strides) != len(self.channels):
            self.error(place, f'anchors have {len(strides)} strides', f'{len(self.channels)} maps',
                       'anchor_generator.strides')

    def check_roi_head(self, cfg: Dict[str, Any], kind: str) -> None:
        own = cfg.get(f'{kind}_roi_extractor')
        for extractor in as_list(own or cfg.get('bbox_roi_extractor'))[:1]:
            out = extractor.get('out_channels')
            if not isinstance(out, int):
                continue
            levels = self.channels[:len(extractor.get('featmap_strides') or self.channels)]
            if own and any(c != out for c in levels):
                self.error(f'roi_head.{kind}_roi_extractor', f'out_channels={out}', levels,
                           'out_channels')
            for head in as_list(cfg.get(f'{kind}_head'))[:1]:
                told = head.get('in_channels')
                if isinstance(told, int) and told != out \
                        and step_name(extractor).endswith('SingleRoIExtractor'):
                    self.findings.error(
                        f'roi_head.{kind}_head: in_channels={told}, its extractor gives {out}: '
                        f'set model.roi_head.{kind}_head.in_channels')


def check_sizes(cfg: Config, findings: Findings) -> None:
    """Compare the crop of training with the size that mmsegmentation pads to."""
    preprocessor = inner_model(cfg.model).get('data_preprocessor') or \
        cfg.get('data_preprocessor') or {}
    if not isinstance(preprocessor, dict) or \
            not step_name(preprocessor).endswith('SegDataPreProcessor'):
        return
    size, divisor = preprocessor.get('size'), preprocessor.get('size_divisor')
    if (size is None) == (divisor is None):
        findings.error('data_preprocessor: expected one of size and size_divisor, found '
                       f'size={size}, size_divisor={divisor}')
        return
    for crop in sorted({c for d in iter_datasets(cfg, ('train', )) if (c := _crop(d))}):
        name = f'crop_size={crop} of training is'
        if size is not None and (crop[0] > size[0] or crop[1] > size[1]):
            findings.error(f'{name} larger than size={tuple(size)} of the data_preprocessor, so '
                           'images of a batch would have different sizes: set '
                           f'model.data_preprocessor.size={crop}')
        elif size is not None and crop != tuple(size):
            findings.warn(f'{name} smaller than size={tuple(size)} of the data_preprocessor: all '
                          'images will be padded')
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
