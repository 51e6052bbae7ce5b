"""Gradients of a batch, whole or shared by processes; started by test_processes.py.

With ``python tools/launch.py --nproc_per_node=2`` before it:
``-m tests.gradients OUT SCENES full|small TASK...``
"""
import os
import sys
from tempfile import mkdtemp

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmscheme.apis.config import load_config
from mmscheme.engine.runners.randomness import ITERATION, seed_all
from mmscheme.engine.runners.resumable_batches import make_resumable
from mmscheme.utils.processes import end_launched, leave_process_group
from tests.models import distilled, tiny_run
from tests.utils import REPOSITORY

IMAGES = 4
SEED = 7


def config(task, scenes, size):
    """A demo without what differs between processes by its nature: batch norm and drop path."""
    if task == 'distill':
        return distilled(config('cls', scenes, size), mkdtemp())
    if size == 'small':
        cfg = tiny_run(task, scenes, 'none')
    else:
        cfg = load_config(REPOSITORY / f'configs/{task}_scheme_s_demo.py', 'none',
                          data_root=scenes)
    cfg.model.backbone.drop_path_rate = 0.
    for head in ('decode_head', 'auxiliary_head'):
        if head in cfg.model:
            cfg.model[head].update(norm_cfg=dict(type='GN', num_groups=4), dropout_ratio=0.)
    if task == 'cls':
        cfg.model.train_cfg = None
    return Config(cfg._cfg_dict.to_dict())


def gradients(model, batch, rank):
    """Those of one process, by name."""
    module = getattr(model, 'module', model)
    model.zero_grad()
    seed_all(SEED, ITERATION, 0, rank)
    losses = model(**module.data_preprocessor(batch, True), mode='loss')
    loss, _ = module.parse_losses(losses)
    loss.backward()
    missing = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, missing
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.requires_grad}


def prepare(cfg, images):
    """The model of a config and its first batch; the same in every process."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    cfg.train_dataloader.update(batch_size=images, num_workers=0, persistent_workers=False)
    loader = make_resumable(Runner.build_dataloader(cfg.train_dataloader, seed=SEED), False)
    loader.batch_sampler.seed = SEED
    return model, next(iter(loader))


def main(out, scenes, size, *tasks):
    """Process 0 writes the gradients that it has alone, and those that it has with the other."""
    rank, count = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    alone = {}
    for task in tasks if rank == 0 else ():
        model, batch = prepare(config(task, scenes, size), IMAGES)
        # A process gets every second image, with the augmentation that it has here.
        parts = [gradients(model, {k: v[r::count] for k, v in batch.items()}, r)
                 for r in range(count)]
        alone[task] = dict(whole=gradients(model, batch, 0),
                           mean={n: sum(p[n] for p in parts) / count for n in parts[0]})
    dist.init_process_group('gloo')
    for task in tasks:
        model, batch = prepare(config(task, scenes, size), IMAGES // count)
        wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
        gradients(wrapped, batch, rank)
        # An unused parameter would be an error of the second step.
        found = gradients(wrapped, batch, rank)
        if rank == 0:
            torch.save(dict(shared=found, **alone[task]), os.path.join(out, f'{task}.pth'))
    leave_process_group()
    end_launched()


if __name__ == '__main__':
    main(*sys.argv[1:])
