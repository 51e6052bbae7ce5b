"""Parameters and multiply-adds of a config's model."""
from copy import deepcopy
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mmscheme.layers import DenseGuide
from mmscheme.models.loading import build_model
from mmscheme.utils.config_query import as_list, inner_model, is_pretrained, scope_of, walk
from mmscheme.utils.quiet import quiet

from .random_batch import find_preprocessor, input_shape, random_batch

__all__ = [
    'CHANNEL_MIXERS', 'COUNTER', 'Complexity', 'Cost', 'count_config', 'count_module',
    'find_modules', 'leave_out_pretrained'
]

COUNTER = (
    'Multiply-adds of one image (half the FLOPs of torch.utils.flop_counter). Counted: '
    'convolutions, linear layers, matrix products and attention. Not counted: norms, '
    'activations, pooling, resizing, additions, RoIAlign, NMS, and operators of mmcv such as '
    'deformable convolutions.')

# What backbones call their mixers.
_TOKEN_MIXERS = ('token_mixer', 'token_mix', 'attn')
CHANNEL_MIXERS = ('channel_mixer', 'channel_mix', 'ffn', 'mlp')


class Cost(NamedTuple):
    """Parameters and multiply-adds of a part of a model."""
    params: int
    macs: int


class Complexity(NamedTuple):
    """Costs of a model.

    Attributes:
        shape: Height and width of the input.
        training: True if it was counted in training mode.
        parts: Costs by part: ``total``, ``backbone``, in it ``token mixers``, ``channel
            mixers`` and ``other``, then ``neck`` and ``heads``.
    """
    shape: Tuple[int, int]
    training: bool
    parts: Dict[str, Cost]


def count_module(module: nn.Module, run: Callable[[], Any]) -> Dict[str, int]:
    """Count the multiply-adds of each part of a module during a call.

    Args:
        module: The module.
        run: Runs it, without gradients.

    Returns:
        Multiply-adds by the name of the submodule as in ``named_modules()``, each
        with its children; ``''`` is everything.
    """
    # torch applies its formula to the attention kernels of GPUs only.
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={
            fused: lambda q, k, v, *args, **kwargs: sdpa_flop_count(q, k, v)}) as counter:
        run()
    root = type(module).__name__
    counts = {name[len(root) + 1:]: sum(flops.values()) // 2
              for name, flops in counter.get_flop_counts().items()
              if name.startswith(root + '.')}
    return {**counts, '': counter.get_total_flops() // 2}


def count_config(cfg: Config, shape: Optional[Tuple[int, int]] = None,
                 training: bool = False) -> Complexity:
    """Count what the model of a config costs, on random input; no data set is needed.

    In evaluation mode a prediction is counted; of a two-stage detector with the most
    proposals and detections that its config allows. In training mode the forward pass is
    counted, CCA and auxiliary heads with it, on random ground truth; how many proposals
    of random weights are positive decides over the cost of a mask head.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.
        shape: Height and width; by default :func:`input_shape`.
        training: Counts in training mode.

    Returns:
        The costs, for one image.

    Raises:
        ValueError: The config's task is not known, or the size of its input.
    """
    # Batch norm over one pooled value fails in training.
    batch_size = 2 if training else 1
    shape = shape or input_shape(cfg)
    batch = random_batch(cfg, shape, batch_size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(_for_counting(cfg, shape))
        # Before that a parameter may be memory as it was found: Deformable DETR matched NaN.
        with quiet():  # mmengine lists every parameter
            model.init_weights()
        for module in model.modules():
            # Evaluation has no part of it, and it has parameters.
            if not training and isinstance(getattr(module, 'guide', None), DenseGuide):
                module.guide = None
        # torch's counter wants parameters without history.
        model.train(training).requires_grad_(False)
        data = model.data_preprocessor(batch, training)
        mode = 'loss' if training else 'predict'
        counts = count_module(model, lambda: model(data['inputs'], data['data_samples'],
                                                   mode=mode))
    return Complexity(shape, training, _split(model, counts, batch_size))


def _for_counting(cfg: Config, shape: Tuple[int, int]) -> Config:
    """Return the config, changed such that its input has that shape and NMS keeps all."""
    cfg = deepcopy(cfg)
    model, preprocessor = inner_model(cfg.model), find_preprocessor(cfg)
    if preprocessor.get('size'):
        preprocessor['size'] = shape  # mmseg pads to it
    preprocessor.pop('batch_augments', None)  # mmdet's resize the images
    leave_out_pretrained(model)
    test_cfg = model.get('test_cfg') or {}
    if scope_of(cfg) == 'mmseg':
        test_cfg['mode'] = 'whole'
    rpn, rcnn = test_cfg.get('rpn'), test_cfg.get('rcnn')
    if rpn and rcnn:
        # Random weights overlap at random and are sure of nothing.
        for stage in (rpn, rcnn):
            if stage.get('nms'):
                stage['nms']['iou_threshold'] = 1.
        rcnn['score_thr'] = 0.
    return cfg


def leave_out_pretrained(model: Dict[str, Any]) -> None:
    """Take checkpoints out of the initialisation; nothing is read or downloaded."""
    for _, node in walk(model):
        if node.get('init_cfg'):
            node['init_cfg'] = [i for i in as_list(node['init_cfg'])
                                if not is_pretrained(i)] or None
        if isinstance(node.get('pretrained'), str):
            node['pretrained'] = None


def _split(model: nn.Module, counts: Dict[str, int], batch_size: int) -> Dict[str, Cost]:

    def cost(*names: str) -> Cost:
        params = sum(p.numel() for name in names for p in model.get_submodule(name).parameters())
        return Cost(params, sum(counts.get(name, 0) for name in names) // batch_size)

    def minus(whole: Cost, *parts: Cost) -> Cost:
        return Cost(whole.params - sum(p.params for p in parts),
                    whole.macs - sum(p.macs for p in parts))

    total, backbone = cost(''), cost('backbone')
    neck = cost('neck') if getattr(model, 'neck', None) is not None else Cost(0, 0)
    tokens = cost(*find_modules(model, _TOKEN_MIXERS))
    channels = cost(*find_modules(model, CHANNEL_MIXERS))
    return {'backbone': backbone, 'token mixers': tokens, 'channel mixers': channels,
            'other': minus(backbone, tokens, channels), 'neck': neck,
            'heads': minus(total, backbone, neck), 'total': total}


def find_modules(model: nn.Module, names: Sequence[str]) -> List[str]:
    """Return the full names of the outermost modules of the backbone with these names."""
    found: List[str] = []
    for name, _ in model.named_modules():
        if name.startswith('backbone.') and name.rsplit('.', 1)[-1] in names:
            if not (found and name.startswith(found[-1] + '.')):
                found.append(name)
    return found
