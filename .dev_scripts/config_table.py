"""Write the table of all configs, with the cost of each, and OpenMMLab's index of them."""
import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import yaml
from mmengine import Config
from mmengine.utils import track_iter_progress
from plug_in_table import plug_in_readme

from mmscheme.analysis.complexity import COUNTER, Complexity, count_config
from mmscheme.apis.config import load_config
from mmscheme.utils.setup_env import get_config_path


class Task(NamedTuple):
    """A kind of config: the start of its file names, and published results to compare with."""
    prefix: str
    title: str
    task: str
    dataset: str
    metrics: Tuple[str, ...]
    #: Published by others: backbone and schedule, parameters in M, metrics.
    published: Tuple[Tuple[str, str, Tuple[str, ...]], ...]


_TASKS = (
    Task('cls', 'Classification', 'Image Classification', 'ImageNet-1K', ('top-1', ), (
        ('PoolFormer-S12, 300 epochs', '11.9', ('77.2', )),
        ('PoolFormer-S24, 300 epochs', '21.4', ('80.3', )),
        ('PoolFormer-S36, 300 epochs', '30.9', ('81.4', )),
        ('SCHEMEformer-S12 44-e8, 300 epochs', '', ('79.7', )),
        ('SCHEMEformer-S24 44-e8, 300 epochs', '', ('81.9', )))),
    Task('mask_rcnn', 'Mask R-CNN', 'Instance Segmentation', 'COCO', ('box AP', 'mask AP'), (
        ('PoolFormer-S12, 1x', '31.6', ('37.3', '34.6')),
        ('PoolFormer-S24, 1x', '41.0', ('40.1', '37.0')),
        ('PoolFormer-S36, 1x', '50.5', ('41.0', '37.7')),
        ('Swin-T, 1x', '', ('42.7', '39.3')))),
    Task('retinanet', 'RetinaNet', 'Object Detection', 'COCO', ('box AP', ), (
        ('PoolFormer-S12, 1x', '21.7', ('36.2', )),
        ('PoolFormer-S24, 1x', '31.1', ('38.9', )),
        ('PoolFormer-S36, 1x', '40.6', ('39.5', )))),
    Task('semantic_fpn', 'Semantic FPN', 'Semantic Segmentation', 'ADE20K', ('mIoU', ), (
        ('PoolFormer-S12, 40k', '15.7', ('37.2', )),
        ('PoolFormer-S24, 40k', '25.1', ('40.3', )),
        ('PoolFormer-S36, 40k', '34.6', ('42.0', )))),
    Task('segformer', 'SegFormer', 'Semantic Segmentation', 'ADE20K', ('mIoU', ), ()),
    Task('upernet', 'UPerNet', 'Semantic Segmentation', 'ADE20K', ('mIoU', ), (
        ('Swin-T, 160k', '', ('44.4', )), )),
)


def _backbone_name(cfg: Config) -> str:
    backbone = cfg.model.backbone
    (g1, g2), arch = backbone.groups, backbone.arch.upper()
    if (g1, g2) == (1, 1) and not backbone.cca:
        return f'MetaFormer-PPAA-{arch}, dense E={backbone.expansion}'
    return f'SCHEMEformer-{arch}, {g1}{g2}-e{backbone.expansion}'


def _schedule(cfg: Config) -> str:
    length = cfg.train_cfg
    if 'max_epochs' in length:
        return f'{length.max_epochs} epochs'
    iters = length.max_iters
    return f'{iters // 1000}k iterations' if iters % 1000 == 0 else f'{iters} iterations'


class _Row(NamedTuple):
    name: str
    cfg: Config
    complexity: Complexity


def _header(*columns: str) -> List[str]:
    return [f'| {" | ".join(columns)} |', f'|{" --- |" * len(columns)}']


def _readme(rows: Dict[Task, List[_Row]]) -> str:
    lines = [
        '# Configs', '',
        'Written by `python .dev_scripts/config_table.py`; do not edit. These configs have not',
        'been trained on ImageNet, COCO or ADE20K, so the tables have their cost and no accuracy.',
        '[Published results](#published-results) are those of other trainings, for comparison.', '',
        COUNTER, '',
        'Costs are those of evaluation, without CCA. Two-stage detectors are counted with as many',
        'proposals (1000, in the demo 200) and detections (100) as they allow.', '']
    for task, found in rows.items():
        lines += [f'## {task.title} ({task.dataset})', '']
        lines += _header('config', 'backbone', 'schedule', 'parameters', 'backbone alone', 'input',
                         'multiply-adds', 'backbone alone')
        for row in found:
            total, backbone = (row.complexity.parts[k] for k in ('total', 'backbone'))
            height, width = row.complexity.shape
            cells = [f'[{row.name}]({row.name}.py)', _backbone_name(row.cfg), _schedule(row.cfg),
                     f'{total.params / 1e6:.1f} M', f'{backbone.params / 1e6:.1f} M',
                     f'{height}x{width}', f'{total.macs / 1e9:.1f} G',
                     f'{backbone.macs / 1e9:.1f} G']
            lines.append(f'| {" | ".join(cells)} |')
        lines.append('')
    lines += ['## Published results', '', *_header(
        'model', 'data', 'backbone', 'schedule', 'parameters', 'result in %')]
    for task in rows:
        for name, params, metrics in task.published:
            result = ', '.join(f'{key} {value}' for key, value in zip(task.metrics, metrics))
            cells = [task.title, task.dataset, *name.split(', '),
                     f'{params} M' if params else 'not stated', result]
            lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join([*lines, ''])


def _metafile(rows: Dict[Task, List[_Row]]) -> str:
    collection = dict(
        Name='SCHEME',
        Metadata={'Architecture': ['Block-diagonal FFN', 'Channel covariance attention']},
        Paper=dict(Title='SCHEME: Scalable Channel Mixer for Vision Transformers',
                   URL='https://arxiv.org/abs/2312.00412'),
        README='configs/README.md')
    models: List[Dict[str, Any]] = []
    for task, found in rows.items():
        for row in found:
            total = row.complexity.parts['total']
            models.append({
                'Name': row.name, 'In Collection': 'SCHEME', 'Config': f'configs/{row.name}.py',
                # OpenMMLab calls multiply-adds FLOPs.
                'Metadata': {'Parameters': total.params, 'FLOPs': total.macs,
                             'Input': list(row.complexity.shape)},
                # Without metrics: there are no weights yet.
                'Results': [{'Task': task.task, 'Dataset': 'generated scenes' if
                             row.name.endswith('_demo') else task.dataset}]})
    return yaml.safe_dump(dict(Collections=[collection], Models=models), sort_keys=False,
                          width=100)


def make_files(folder: Path) -> Dict[Path, str]:
    """Count all configs of a folder.

    Args:
        folder: With the configs; its parent is the project.

    Returns:
        Text by path: ``README.md`` and ``metafile.yml`` there, ``model-index.yml`` in the
        project, and ``plug_in/README.md`` of the configs for stock backbones.

    Raises:
        ValueError: A config belongs to no task of the table.
    """
    rows: Dict[Task, List[_Row]] = {task: [] for task in _TASKS}
    paths = sorted(folder.glob('*.py'))
    for path in track_iter_progress(paths, file=sys.stderr):
        task = next((t for t in _TASKS if path.stem.startswith(t.prefix + '_')), None)
        if task is None:
            raise ValueError(f'{path.name}: expected a name that starts with one of '
                             f'{[t.prefix for t in _TASKS]}')
        cfg = load_config(path)
        rows[task].append(_Row(path.stem, cfg, count_config(cfg)))
    for found in rows.values():  # ours, the baseline, the demo; small before large
        found.sort(key=lambda row: (row.name.endswith('_demo'), '_ppaa_' in row.name,
                                    row.complexity.parts['total'].params, len(row.name)))
    plug_in = folder / 'plug_in'
    return {folder / 'README.md': _readme(rows), folder / 'metafile.yml': _metafile(rows),
            folder.parent / 'model-index.yml': 'Import:\n  - configs/metafile.yml\n',
            plug_in / 'README.md': plug_in_readme(plug_in)}


def main(argv: Optional[List[str]] = None) -> None:
    """Write the files, or check that they are current."""
    parser = argparse.ArgumentParser(
        description='Write configs/README.md, configs/metafile.yml, model-index.yml and '
        'configs/plug_in/README.md.')
    parser.add_argument('--check', action='store_true',
                        help='write nothing; fail if a file is not what would be written')
    args = parser.parse_args(argv)
    stale = []
    for path, text in make_files(Path(get_config_path())).items():
        if not path.is_file() or path.read_text() != text:
            stale.append(str(path))
            if not args.check:
                path.write_text(text)
    if args.check and stale:
        print(f'\nerror: not current: {", ".join(stale)}; '
              '`python .dev_scripts/config_table.py` writes them', file=sys.stderr)
        sys.exit(1)
    print('\n' + ('current' if args.check or not stale else f'written: {", ".join(stale)}'))


if __name__ == '__main__':
    main()
