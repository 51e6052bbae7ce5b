"""Checks of a model: what its parts give and what the next ones expect."""
import random
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine import Config
from torch import Tensor, nn

from mmscheme.models.loading import build_model
from mmscheme.utils.config_query import as_list, inner_model, iter_datasets, step_name

from .findings import Findings

__all__ = ['build_for_checks', 'check_channels', 'check_sizes']

# Sides of the image that a backbone is tried with: the first that it takes counts.
_SIDES = (64, 224)


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """A run draws the same numbers with checks and without."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def build_for_checks(cfg: Config, findings: Findings) -> Optional[nn.Module]:
    """The model of a config on the CPU, or None with the reason noted."""
    with _own_random_numbers():
        try:
            model = build_model(cfg)
        except Exception as e:
            kind = '' if isinstance(e, (ValueError, TypeError)) else f'{type(e).__name__}: '
            findings.error(f'{kind}{e.args[0] if isinstance(e, KeyError) and e.args else e}',
                           cause=e)
            return None
    return getattr(model, 'module', model)


def check_channels(cfg: Config, model: nn.Module, findings: Findings) -> None:
    """Runs backbone and neck and compares what they give with what comes after.

    Args:
        cfg: The config.
        model: Of :func:`build_for_checks`.
        findings: Where faults and doubts are added.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        return
    model_cfg = inner_model(cfg.model)
    with _own_random_numbers(), torch.no_grad():
        maps = _try(backbone, _input_channels(model_cfg), findings)
        if maps is None:
            return
        giver = 'backbone'
        neck = getattr(model, 'neck', None)
        if isinstance(neck, nn.Module):
            told = (model_cfg.get('neck') or {}).get('in_channels') \
                if isinstance(model_cfg.get('neck'), dict) else None
            if told is not None and not _same(told, maps, 'neck', giver, findings):
                return
            try:
                maps = neck(maps)
            except Exception as e:
                findings.warn(f'neck: could not be tried on the maps of the backbone ({e})')
                return
            giver = 'neck'
    _check_heads(model, model_cfg, _maps(maps), giver, findings)


def _input_channels(model: Dict[str, Any]) -> int:
    channels = (model.get('backbone') or {}).get('in_channels', 3)
    return channels if isinstance(channels, int) and channels > 0 else 3


def _try(backbone: nn.Module, channels: int, findings: Findings) -> Any:
    error: Optional[Exception] = None
    for side in _SIDES:
        try:
            return backbone(torch.zeros(1, channels, side, side))
        except Exception as e:
            error = e
    findings.warn(f'backbone: could not be tried on a small image ({error}); in_channels of the '
                  'heads are not checked')
    return None


def _maps(outputs: Any) -> List[Tensor]:
    """The tensors of an output, of each pair of map and class token the last."""
    maps: List[Tensor] = []
    for item in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
        while isinstance(item, (list, tuple)) and item:
            item = item[-1]
        if isinstance(item, Tensor) and item.dim() in (2, 4):
            maps.append(item)
    return maps


def _same(told: Any, outputs: Any, place: str, giver: str, findings: Findings) -> bool:
    given = [m.shape[1] for m in _maps(outputs)]
    many = isinstance(told, (list, tuple))
    if not given or (list(told) == given if many else told == given[-1]):
        return True
    findings.error(f'{place}: in_channels={list(told) if many else told}, the {giver} gives '
                   f'{given if many else given[-1]}: set model.{place}.in_channels')
    return False


def _check_heads(model: nn.Module, cfg: Dict[str, Any], maps: Sequence[Tensor], giver: str,
                 findings: Findings) -> None:
    if not maps:
        return
    given = [m.shape[1] for m in maps]
    for place in ('decode_head', 'auxiliary_head'):
        # Cascaded heads hand results on, so only the first of them sees these maps.
        heads = as_list(cfg.get(place))
        for head in heads[:1] if place == 'decode_head' else heads:
            _check_segmentation_head(head, place, given, giver, findings)
    for place in ('rpn_head', 'bbox_head', 'mask_head'):
        head = getattr(model, place, None)
        told = as_list(cfg.get(place))[:1]
        if isinstance(head, nn.Module) and told and isinstance(told[0].get('in_channels'), int):
            _check_dense_head(head, told[0]['in_channels'], place, given, giver, findings)
    if isinstance(cfg.get('roi_head'), dict):
        _check_roi_head(cfg['roi_head'], given, giver, findings)
    head = cfg.get('head')
    if isinstance(head, dict) and isinstance(head.get('in_channels'), int):
        _same(head['in_channels'], list(maps), 'head', giver, findings)


def _check_segmentation_head(head: Dict[str, Any], place: str, given: List[int], giver: str,
                             findings: Findings) -> None:
    told, index = head.get('in_channels'), head.get('in_index', -1)
    if told is None:
        return
    try:
        expected: Any = [given[i] for i in index] if isinstance(index, (list, tuple)) \
            else given[index]
    except (IndexError, TypeError):
        findings.error(f'{place}: in_index={index}, the {giver} gives {len(given)} maps: set '
                       f'model.{place}.in_index')
        return
    told = list(told) if isinstance(told, (list, tuple)) else told
    if told != expected:
        findings.error(f'{place}: in_channels={told}, the {giver} gives {expected} (in_index='
                       f'{index}): set model.{place}.in_channels')


def _check_dense_head(head: nn.Module, told: int, place: str, given: List[int], giver: str,
                      findings: Findings) -> None:
    wrong = [c for c in given if c != told]
    if wrong:
        findings.error(f'{place}: in_channels={told}, the {giver} gives {given}: set '
                       f'model.{place}.in_channels')
    strides = getattr(getattr(head, 'prior_generator', None), 'strides', None)
    if strides is not None and len(strides) != len(given):
        findings.error(f'{place}: anchors have {len(strides)} strides, the {giver} gives '
                       f'{len(given)} maps: set its anchor_generator.strides')


def _check_roi_head(cfg: Dict[str, Any], given: List[int], giver: str, findings: Findings
                    ) -> None:
    for kind in ('bbox', 'mask'):
        extractor = cfg.get(f'{kind}_roi_extractor') or cfg.get('bbox_roi_extractor')
        for one in as_list(extractor)[:1]:
            out = one.get('out_channels')
            levels = given[:len(one.get('featmap_strides') or given)]
            if isinstance(out, int) and any(c != out for c in levels) \
                    and cfg.get(f'{kind}_roi_extractor'):
                findings.error(f'roi_head.{kind}_roi_extractor: out_channels={out}, the {giver} '
                               f'gives {levels}: set model.roi_head.{kind}_roi_extractor.'
                               'out_channels')
            for head in as_list(cfg.get(f'{kind}_head'))[:1]:
                told = head.get('in_channels')
                if isinstance(told, int) and isinstance(out, int) and told != out \
                        and step_name(one).endswith('SingleRoIExtractor'):
                    findings.error(f'roi_head.{kind}_head: in_channels={told}, its extractor '
                                   f'gives {out}: set model.roi_head.{kind}_head.in_channels')


def check_sizes(cfg: Config, findings: Findings) -> None:
    """Compares the crop of training with the size that mmsegmentation pads to."""
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
    crops = {crop for d in iter_datasets(cfg, ('train', )) if (crop := _crop(d)) is not None}
    for crop in sorted(crops):
        if size is not None and (crop[0] > size[0] or crop[1] > size[1]):
            findings.error(f'crop_size={crop} of training is larger than size={tuple(size)} of the '
                           'data_preprocessor, so images of a batch would have different sizes: '
                           f'set model.data_preprocessor.size={crop}')
        elif size is not None and crop != tuple(size):
            findings.warn(f'crop_size={crop} of training is smaller than size={tuple(size)} of the '
                          'data_preprocessor: all images will be padded')
        step = divisor or 32
        if any(side % step for side in crop):
            findings.warn(f'crop_size={crop} of training is no multiple of {step}'
                          + (' (size_divisor): all images will be padded' if divisor else
                             ', the usual stride of the last stage'))


def _crop(dataset: Dict[str, Any]) -> Optional[Tuple[int, int]]:
    """The last crop of a pipeline, height and width."""
    crop = None
    for step in dataset.get('pipeline') or []:
        if step_name(step).endswith('RandomCrop') and step.get('crop_size'):
            found = step['crop_size']
            crop = (found, found) if isinstance(found, int) else tuple(found)
    return crop if crop and len(crop) == 2 else None
