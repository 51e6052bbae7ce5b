"""The card of published weights: what they are, what they were trained on, what may be done."""
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from mmengine import Config

from mmscheme.utils.checkpoint_io import read_weights
from mmscheme.utils.config_query import dataset_class, iter_datasets, scope_of
from mmscheme.version import __version__

__all__ = ['model_card']

# Of each framework: its name on the Hugging Face Hub, and the task there.
_TASKS = dict(mmseg=('mmsegmentation', 'image-segmentation'),
              mmdet=('mmdetection', 'object-detection'),
              mmpretrain=('mmpretrain', 'image-classification'))


def model_card(weights: Path, cfg: Optional[Config] = None, licence: Optional[str] = None,
               data: Optional[str] = None, metrics: Mapping[str, float] = {},
               repo: Optional[str] = None) -> str:
    """Write the card of published weights, Markdown with the header that the hub reads.

    What nobody has stated stands in it as not stated; nothing is guessed.

    Args:
        weights: File that :func:`mmscheme.apis.publish.publish` wrote.
        cfg: Its config, which is beside it.
        licence: Licence of the weights, as the hub spells it: ``'apache-2.0'``.
        data: What they were trained and tested on; by default the type of the config's
            training data.
        metrics: Their metrics by name.
        repo: Where they will be on the hub, ``OWNER/NAME``.

    Returns:
        The text.

    Raises:
        FileNotFoundError, ValueError: ``weights`` is not there or not readable.
    """
    tensors, meta = read_weights(str(weights))
    trained_on = map(dataset_class, iter_datasets(cfg, ('train', ))) if cfg else iter(())
    data = data or getattr(next(trained_on, None), '__name__', None)
    library, task = _TASKS.get(scope_of(cfg), (None, None)) if cfg else (None, None)
    header: Dict[str, Any] = dict(library_name='mmscheme')
    if licence:
        header['license'] = licence.lower()
    if task:
        header.update(pipeline_tag=task, tags=['mmscheme', library])
    if task and data and metrics:
        dataset = dict(name=data, type=re.sub(r'\W+', '-', data).lower())
        header['model-index'] = [dict(name=weights.stem, results=[dict(
            task=dict(type=task), dataset=dataset,
            metrics=[dict(type=k, name=k, value=v) for k, v in metrics.items()])])]
    classes = (meta.get('dataset_meta') or {}).get('classes') or ()
    config = weights.with_suffix('.py').name if cfg else 'CONFIG'
    rows = {
        'data': data, 'licence': licence,
        'metric': ', '.join(f'{k} {v:g}' for k, v in metrics.items()),
        'classes': f'{len(classes)}: {", ".join(map(str, classes))}' if classes else None,
        'parameters': f'{sum(v.numel() for v in tensors.values()):,} values, '
                      + ', '.join(sorted({str(v.dtype)[6:] for v in tensors.values()})),
        'training': ', '.join(f'{k} {meta[k]}' for k in ('epoch', 'iter') if k in meta),
        'config': f'`{config}`' if cfg else None,
        'weights': f'`{weights.name}`',
        'SHA-256': f'`{hashlib.sha256(weights.read_bytes()).hexdigest()}`',
        'written by': f'mmscheme {__version__}'}
    source = f'hf://{repo}/{weights.name}' if repo else weights.name
    return '\n'.join([
        '---', *(f'{k}: {json.dumps(v)}' for k, v in header.items()), '---',  # JSON is YAML
        f'# {repo or weights.stem}', '', '| | |', '| --- | --- |',
        *(f'| {k} | {_cell(v) if v else "not stated"} |' for k, v in rows.items()), '',
        '```bash', f'python -m mmscheme test {config} {source}', '```', ''])


def _cell(text: str) -> str:
    return re.sub(r'\s+', ' ', text).replace('|', r'\|')
