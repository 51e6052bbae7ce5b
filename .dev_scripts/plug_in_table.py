"""The table of the configs that put SCHEME into stock backbones."""
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from mmengine import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import track_iter_progress

from mmscheme.analysis.complexity import COUNTER, Cost, count_config, count_module
from mmscheme.analysis.random_batch import input_shape
from mmscheme.apis.config import load_config
from mmscheme.layers import SCHEMEMixer
from mmscheme.utils.config_query import iter_heads, step_name

__all__ = ['plug_in_readme']


class _Row(NamedTuple):
    name: str
    cfg: Config
    mixers: int
    stock: Cost
    plugged: Cost


def _count(cfg: Config, part: ConfigDict, shape: Tuple[int, int]) -> Tuple[Cost, int]:
    """Count what a backbone or model costs, and its SCHEME mixers."""
    init_default_scope(cfg.default_scope)
    model = MODELS.build(deepcopy(part))  # some change it
    mixers = sum(isinstance(m, SCHEMEMixer) for m in model.modules())
    if isinstance(model, BaseModel):
        whole = Config(dict(cfg.to_dict(), model=part))
        return count_config(whole, shape).parts['total'], mixers
    # Without computing anything.
    model.to('meta').requires_grad_(False)
    model.eval()
    image = torch.empty(1, 3, *shape, device='meta')
    macs = count_module(model, lambda: model(image))['']
    return Cost(sum(p.numel() for p in model.parameters()), macs), mixers


def _wrapper(cfg: Config) -> ConfigDict:
    """Return the wrapper of a config, around its backbone or its whole model."""
    return cfg.model if step_name(cfg.model) == 'SCHEMEWrapper' else cfg.model.backbone


def _backbone_name(backbone: ConfigDict) -> str:
    kind = step_name(backbone)
    if 'backbone' in backbone:
        kind = next(step_name(head) for _, head in iter_heads(backbone)).removesuffix('Head')
        return f'{kind} with {_backbone_name(backbone.backbone)}'
    arch = backbone.get('model_name', backbone.get('arch'))
    return f'{kind} {arch}' if arch else kind


def _line(row: _Row) -> str:
    wrapper, stock, plugged = _wrapper(row.cfg), row.stock, row.plugged
    g1, g2 = wrapper.groups
    height, width = input_shape(row.cfg)
    cells = [f'[{row.name}]({row.name}.py)', _backbone_name(wrapper.backbone),
             f'{g1}{g2}-e{wrapper.expansion}', str(row.mixers), f'{height}x{width}',
             f'{stock.params / 1e6:.1f} M', f'{plugged.params / 1e6:.1f} M',
             f'{plugged.params / stock.params:.2f}', f'{stock.macs / 1e9:.2f} G',
             f'{plugged.macs / 1e9:.2f} G', f'{plugged.macs / stock.macs:.2f}']
    return f'| {" | ".join(cells)} |'


def plug_in_readme(folder: Path) -> str:
    """Count the backbones of all configs of a folder, as they are and without SCHEME.

    Args:
        folder: With configs whose backbone or model is an ``mmscheme.SCHEMEWrapper``.

    Returns:
        The text of its ``README.md``.
    """
    rows: List[_Row] = []
    counted: Dict[Any, Cost] = {}
    for path in track_iter_progress(sorted(folder.glob('*.py')), file=sys.stderr):
        cfg = load_config(path)
        wrapper, shape = _wrapper(cfg), input_shape(cfg)
        key = (str(wrapper.backbone), shape)
        if key not in counted:
            counted[key], _ = _count(cfg, wrapper.backbone, shape)
        plugged, mixers = _count(cfg, wrapper, shape)
        rows.append(_Row(path.stem, cfg, mixers, counted[key], plugged))
    header = ['config', 'stock backbone or model', 'SCHEME', 'mixers', 'input', 'parameters, stock',
              'with SCHEME', 'ratio', 'multiply-adds, stock', 'with SCHEME', 'ratio']
    return '\n'.join([
        '# SCHEME in stock backbones', '',
        'Written by `python .dev_scripts/config_table.py`; do not edit. The table has the cost of',
        'each backbone in evaluation, as it is in its library (stock) and with its channel mixers',
        'replaced; `mixers` is their number. Necks and heads are the same. For DINO and',
        'Mask2Former, whose encoders are replaced too, it has the cost of the whole model. These',
        'configs have not been trained, so there is no accuracy.', '', COUNTER, '',
        f'| {" | ".join(header)} |', f'|{" --- |" * len(header)}', *map(_line, rows), ''])
