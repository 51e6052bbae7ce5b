"""Checks of small configs."""
from mmengine.registry import init_default_scope

from mmscheme.apis.config import load_config
from mmscheme.checks import check_run


def check(box, task, extra='', splits=('train', 'val'), **changes):
    cfg = load_config(box.config(task, extra), str(box.folder / 'work'), changes,
                      str(box.scenes))
    init_default_scope(cfg.default_scope)
    return check_run(cfg, splits)


def own_data(more=''):
    """Lines of a config whose data set is mmseg's base class."""
    lines = ''
    for split, folder, pipeline in (('train', 'training', 'train'), ('val', 'validation', 'test')):
        lines += (
            f"{split}_dataloader = dict(dataset=dict(_delete_=True, type='BaseSegDataset', "
            f"data_root='x', data_prefix=dict(img_path='images/{folder}', "
            f"seg_map_path='annotations/{folder}'), reduce_zero_label=True, {more}"
            f"pipeline=_base_.{pipeline}_pipeline))\n")
    return lines + 'test_dataloader = val_dataloader\n'


def only_error(findings):
    assert len(findings.errors) == 1, (findings.errors, findings.warnings)
    return findings.errors[0]
