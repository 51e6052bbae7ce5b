"""Write ``docs/support.md``: which backbones SCHEMEWrapper takes and what it does to them.

Run from a clone: ``python .dev_scripts/support_matrix.py``. What stays dense is found by the
generic detector, which looks at widths and order and knows no adapter.
"""
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Iterator, List

import torch
from mmengine.logging import MMLogger

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mmscheme.models.utils.dense_mixers import find_dense_pairs  # noqa: E402
from tests.test_models.stock_backbones import (  # noqa: E402
    BACKBONES,
    MORE,
    REFUSED,
    build,
    mixers,
    wrap,
)

TARGET = ROOT / 'docs' / 'support.md'
HEADER = '''# Backbones that SCHEMEWrapper takes

Written by `python .dev_scripts/support_matrix.py`; do not edit. One backbone of each family was
wrapped with `groups='auto'`: its [channel mixers](glossary.md#channel-mixer) become
[SCHEME](glossary.md#scheme) mixers, with [block-diagonal](glossary.md#block-diagonal) layers and
[CCA](glossary.md#cca).

- **replaced**: number of channel mixers that became SCHEME mixers.
- **left dense**: what a generic detector still finds afterwards, by the last part of the names. It
  looks for two dense layers `C -> H -> C` with `H >= C` around an activation, in any class.
  (`cpb_mlp` turns coordinates into biases of attention, and is not a channel mixer.)
- **class tokens**: number of leading tokens that CCA leaves out, found by a trial when the backbone
  is built.
- **CCA**: *part* means that only the number of mixers in brackets have CCA, because the others get
  nothing but a class token.

In SwiGLU, the gate and the values both become block-diagonal; `expansion` refers to the hidden
channels of the values. CCA covers the positions that a mixer gets at a time: in MobileViT the
patches of one sequence, in the inner blocks of TNT the pixels of one patch.

| library | family | replaced | left dense | class tokens | CCA |
| --- | --- | --- | --- | --- | --- |
'''


def _row(name: str, cfg: Any) -> str:
    library, family = name.split(' ', 1)
    model = wrap(cfg, groups='auto')
    own = mixers(model).values()
    left = Counter(holder.rpartition('.')[2] for holder in find_dense_pairs(model).values())
    tokens = sorted({m.cca.num_extra_tokens for m in own if m.cca is not None})
    with_cca = sum(m.cca is not None for m in own)
    return (f'| {library} | {family} | {len(own)} | '
            f'{", ".join(f"{n} `{key}`" for key, n in left.items()) or 0} | '
            f'{", ".join(map(str, tokens))} | '
            f'{"yes" if with_cca == len(own) else f"part ({with_cca})"} |')


def _refused(name: str, cfg: Any, reason: str) -> str:
    library, family = name.split(' ', 1)
    try:
        wrap(cfg, groups='auto')
    except ValueError:
        stock = build(cfg)
        classes = Counter(type(stock.get_submodule(holder)).__name__
                          for holder in find_dense_pairs(stock).values())
        seen = ', '.join(f'{n} `{key}`' for key, n in classes.items()) or 'none'
        return f'| {library} | {family} | {seen} | {reason} |'
    raise SystemExit(f'{name} is not refused')


def lines() -> Iterator[str]:
    """Yield the lines of the tables."""
    every = {**{name: row[0] for name, row in BACKBONES.items()}, **MORE}
    for name in sorted(every, key=str.lower):
        yield _row(name, every[name])
    yield ''
    yield 'These are refused with an error:'
    yield ''
    yield '| library | family | what the detector finds | why |'
    yield '| --- | --- | --- | --- |'
    for name in sorted(REFUSED, key=str.lower):
        yield _refused(name, *REFUSED[name])


def make_text() -> str:
    """Return the text of the file."""
    warnings.simplefilter('ignore')
    MMLogger.get_instance('mmengine', log_level='ERROR')
    torch.manual_seed(0)
    text: List[str] = []
    for line in lines():
        print(line, file=sys.stderr, flush=True)
        text.append(line)
    return HEADER + '\n'.join(text) + '\n'


if __name__ == '__main__':
    TARGET.write_text(make_text())
