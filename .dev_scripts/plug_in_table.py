"""The table of the configs that put SCHEME into stock backbones."""
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from mmengine import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import track_iter_progress

from mmscheme.analysis.complexity import COUNTER, Cost, count_module
from mmscheme.analysis.random_batch import input_shape
from mmscheme.apis.config import load_config
from mmscheme.layers import SCHEMEMixer

__all__ = ['plug_in_readme']


class _Row(NamedTuple):
    name: str
    cfg: Config
    mixers: int
    stock: Cost
    plugged: Cost


def _count(backbone: ConfigDict, scope: str, shape: Tuple[int, int]) -> Tuple[Cost, int]:
    """Count what a backbone costs and its SCHEME mixers, without computing anything."""
    init_default_scope(scope)
    model = MODELS.build(backbone).to('meta').requires_grad_(False)
    model.eval()
    image = torch.empty(1, 3, *shape, device='meta')
    macs = count_module(model, lambda: model(image))['']
    return (Cost(sum(p.numel() for p in model.parameters()), macs),
            sum(isinstance(m, SCHEMEMixer) for m in model.modules()))


def _backbone_name(backbone: ConfigDict) -> str:
    kind = backbone.type.split('.')[-1]
    arch = backbone.get('model_name', backbone.get('arch'))
    return f'{kind} {arch}' if arch else kind


def _line(row: _Row) -> str:
    wrapper, stock, plugged = row.cfg.model.backbone, row.stock, row.plugged
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
        folder: With configs whose backbone is an ``mmscheme.SCHEMEWrapper``.

    Returns:
        The text of its ``README.md``.
    """
    rows: List[_Row] = []
    counted: Dict[Any, Cost] = {}
    for path in track_iter_progress(sorted(folder.glob('*.py')), file=sys.stderr):
        cfg = load_config(path)
        wrapper, shape = cfg.model.backbone, input_shape(cfg)
        key = (str(wrapper.backbone), shape)
        if key not in counted:
            counted[key], _ = _count(wrapper.backbone, cfg.default_scope, shape)
        plugged, mixers = _count(wrapper, cfg.default_scope, shape)
        rows.append(_Row(path.stem, cfg, mixers, counted[key], plugged))
    header = ['config', 'stock backbone', 'SCHEME', 'mixers', 'input', 'parameters, stock',
              'with SCHEME', 'ratio', 'multiply-adds, stock', 'with SCHEME', 'ratio']
    return '\n'.join([
        '# SCHEME in stock backbones', '',
        'Written by `python .dev_scripts/config_table.py`; do not edit. The table has the cost of',
        'each backbone in evaluation, as it is in its library (stock) and with its channel mixers',
        'replaced; `mixers` is their number. Necks and heads are the same. These configs have not',
        'been trained, so there is no accuracy.', '', COUNTER, '',
        f'| {" | ".join(header)} |', f'|{" --- |" * len(header)}', *map(_line, rows), ''])
