"""The deployment form: a trained model without what only training needs.

What is left out at evaluation is gone (CCA, drop path, auxiliary heads), and what is linear
is multiplied into the layer beside it: alpha and layer scale into the second layer of the
FFN, the affine part of a group norm into the first; layer scale into the projection of the
attention, or into the norm before a pooling; batch norm into the convolution before it.
Outputs stay what they are in evaluation mode, up to the rounding of float32.
"""
import inspect
from copy import deepcopy
from pathlib import Path
from typing import Any, Iterator, Optional, Tuple, Union

import torch
from mmcv.cnn import fuse_conv_bn
from mmcv.cnn.bricks import DropPath
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmscheme.analysis.random_batch import input_shape, random_batch
from mmscheme.layers import Pooling, SCHEMEMixer, SelfAttention
from mmscheme.models.backbones.schemeformer import MetaFormerBlock
from mmscheme.models.loading import build_model, load_model, load_weights
from mmscheme.models.utils.ffn import SCHEMEFFN, BlockDiagonalFFN
from mmscheme.utils.checkpoint_io import check_checkpoint_name, make_plain, save_checkpoint
from mmscheme.utils.config_query import find_class, inner_model, scope_of, step_name, walk
from mmscheme.utils.output_files import check_not_read, write_bytes
from mmscheme.version import __version__

__all__ = ['deploy_config', 'fold', 'largest_difference', 'write_deployed']

TOLERANCE = 1e-5


def fold(model: nn.Module, fuse_norms: bool = True) -> nn.Module:
    """Turn a trained model into its deployment form.

    SCHEME mixers are found in any model, layer scale in the blocks of SCHEMEformer and in
    the FFNs of this package.

    Args:
        model: Not changed.
        fuse_norms: Folds batch norms into the convolutions before them.

    Returns:
        A copy in evaluation mode that computes the same.

    Raises:
        ValueError: A mixer keeps its CCA in evaluation mode and alpha is not 1, so the
            branch cannot go.
    """
    model = deepcopy(model)
    model.eval()  # some return nothing
    for name, module in model.named_modules():
        if isinstance(module, SCHEMEMixer):
            _fold_mixer(module, name)
    for module in list(model.modules()):
        if isinstance(module, MetaFormerBlock):
            _fold_block(module)
        elif isinstance(module, (SCHEMEFFN, BlockDiagonalFFN)):
            _fold_ffn(module)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DropPath):
                setattr(parent, name, nn.Identity())
    if getattr(model, 'auxiliary_head', None) is not None:
        model.auxiliary_head = None
    if fuse_norms:
        # By child, as mmcv wants a convolution and its norm side by side.
        model = fuse_conv_bn(model)
    return model


@torch.no_grad()
def _scale_rows(layer: nn.Module, scale: Tensor) -> None:
    """Multiply the outputs of a layer or norm, in float64 for one rounding instead of two."""
    columns = [1] * (layer.weight.dim() - 1)
    layer.weight.copy_(layer.weight.double() * scale.double().view(-1, *columns))
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.double() * scale.double())


@torch.no_grad()
def _fold_mixer(mixer: SCHEMEMixer, name: str) -> None:
    if mixer.guide is None:
        return
    alpha = mixer.alpha.double()
    if mixer.keep_cca and alpha != 1:
        raise ValueError(f'{name}: keep_cca=True and alpha is {float(alpha):.4f}: its guide is '
                         'part of this model and cannot be folded away; alpha must be 1, or '
                         'backbone.keep_cca=False')
    if mixer.cca is not None:
        # A norm behind the second layer would take the factor out again.
        last = mixer.ffn.drop2[0] if isinstance(mixer.ffn.drop2, nn.Sequential) else mixer.ffn.fc2
        _scale_rows(last, alpha.expand(mixer.ffn.fc2.out_features))
    mixer.guide = None
    del mixer.alpha_logit, mixer.cca_factor


@torch.no_grad()
def _fold_block(block: MetaFormerBlock) -> None:
    if block.layer_scale1 is None:
        return
    if isinstance(block.token_mixer, SelfAttention):
        _scale_rows(block.token_mixer.proj, block.layer_scale1)
    elif isinstance(block.token_mixer, Pooling):
        # pool(n) - n acts on each channel alone, and a constant added to n cancels.
        block.norm1.weight.mul_(block.layer_scale1)
        block.norm1.bias.zero_()
    else:
        raise ValueError(f'no rule to fold layer scale into {type(block.token_mixer).__name__}')
    fc1, fc2 = block.channel_mixer.ffn.fc1, block.channel_mixer.ffn.fc2
    _scale_rows(fc2, block.channel_mixer.reorder(block.layer_scale2))
    block.layer_scale1 = block.layer_scale2 = None
    norm = block.norm2
    if isinstance(norm, nn.GroupNorm) and norm.affine:
        blocks = fc1.weight.double().unflatten(0, (fc1.groups, -1))
        weight, bias = (block.channel_mixer.reorder(v.double()) for v in (norm.weight, norm.bias))
        shift = bias.unflatten(0, (fc1.groups, 1, -1))
        fc1.bias.add_((blocks * shift).sum(-1).flatten())
        scale = weight.unflatten(0, (fc1.groups, 1, -1))
        fc1.weight.copy_((blocks * scale).flatten(0, 1))
        block.norm2 = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps, affine=False)


@torch.no_grad()
def _fold_ffn(ffn: Union[SCHEMEFFN, BlockDiagonalFFN]) -> None:
    if isinstance(ffn.gamma2, nn.Identity):
        return
    if isinstance(ffn.mixer, SCHEMEMixer):
        _scale_rows(ffn.mixer.ffn.fc2, ffn.mixer.reorder(ffn.gamma2.weight))
    else:
        _scale_rows(ffn.mixer.fc2, ffn.gamma2.weight)
    ffn.gamma2 = nn.Identity()


def deploy_config(cfg: Config, fuse_norms: bool = True) -> Config:
    """Return the config whose model has the deployment form of another's.

    Args:
        cfg: Not changed.
        fuse_norms: As in :func:`fold`.

    Returns:
        A config with the same data and pipelines.
    """
    cfg = deepcopy(cfg)
    init_default_scope(scope_of(cfg))
    cfg.load_from, cfg.resume = None, False
    model = inner_model(cfg.model)
    model.pop('pretrained', None)
    if 'auxiliary_head' in model:
        model['auxiliary_head'] = None
    for _, node in walk(cfg.model):
        cls = find_class(MODELS, node.get('type')) if 'type' in node else None
        arguments = inspect.signature(cls).parameters if callable(cls) else {}
        if 'deploy' in arguments:
            node.update(deploy=True)
        elif 'guide' in arguments and node.get('mixer', 'scheme') == 'scheme':
            node.update(guide=None)
        if cls in (SCHEMEFFN, BlockDiagonalFFN) and node.get('layer_scale_init_value'):
            node.update(layer_scale_init_value=0.)
        if 'type' in node:
            node.pop('init_cfg', None)
        norm = node.get('norm_cfg')
        if fuse_norms and norm and step_name(norm) in ('BN', 'SyncBN', 'BN2d', 'MMSyncBN'):
            node['norm_cfg'] = None
    return cfg


def largest_difference(cfg: Config, model: nn.Module, folded: nn.Module,
                       shape: Tuple[int, int]) -> float:
    """Return the largest difference of two models' outputs, relative to outputs over 1."""
    batch = random_batch(cfg, shape, 1)
    with torch.no_grad():
        outputs = []
        for m in (model, folded):
            data = m.data_preprocessor(deepcopy(batch), False)
            features = m.extract_feat(data['inputs'])
            heads = _heads(m, features, data.get('data_samples'))
            outputs.append([*_tensors(features), *_tensors(heads)])
    # torch's maximum, because Python's may leave out a NaN.
    return float(torch.stack([(a - b).abs().max() / a.abs().max().clamp(min=1)
                              for a, b in zip(*outputs)]).max())


def _heads(model: Any, features: Any, samples: Any) -> Any:
    """Run the dense head on the features; heads on proposals see no other layers."""
    if hasattr(model, 'forward_transformer'):   # DETR and its relatives
        return model.bbox_head(**model.forward_transformer(features, samples))
    for name in ('decode_head', 'bbox_head', 'rpn_head', 'head'):
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            asks = 'batch_data_samples' in inspect.signature(head.forward).parameters
            return head(features, samples) if asks else head(features)
    return []


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from _tensors(child)


def write_deployed(cfg: Config, checkpoint: str, target: Union[str, Path]
                   ) -> Tuple[Path, Path, float, Tuple[int, int]]:
    """Write the deployment form of a checkpoint, and the config that loads it.

    Nothing is written unless the config builds a model that takes the weights, all of
    them, and its outputs are those of the original.

    Args:
        cfg: The config of the checkpoint.
        checkpoint: File.
        target: ``DIR/NAME.pth`` or ``DIR/NAME.safetensors`` to write; the config goes to
            ``DIR/NAME.py``.

    Returns:
        Both files, the largest difference of the outputs on a random image, and the
        numbers of parameters before and after.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The model has no such form, or the files cannot be named so, as where
            one of them is read.
    """
    target = Path(target)
    check_checkpoint_name(target)
    config = target.with_suffix('.py')
    check_not_read(target, checkpoint=checkpoint)
    check_not_read(config, config=cfg.filename)
    model, meta = load_model(cfg, checkpoint)
    problem: Optional[Exception] = None
    for fuse_norms in (True, False):
        # A stock backbone may have no way to say that its norms are gone.
        folded, new_cfg = fold(model, fuse_norms), deploy_config(cfg, fuse_norms)
        try:
            rebuilt = build_model(new_cfg)
            load_weights(rebuilt, folded.state_dict(), 'the deployment form')
            break
        except (ValueError, TypeError, AttributeError) as e:
            problem = problem or e
    else:
        raise ValueError('no config can express the deployment form of this model; '
                         f'`python -m mmscheme export` needs none: {problem}')
    difference = largest_difference(cfg, model, rebuilt, input_shape(cfg))
    if not difference <= TOLERANCE:
        raise ValueError(f'the outputs of the deployment form differ by {difference:.2g}, '
                         f'expected at most {TOLERANCE}')
    save_checkpoint(dict(
        meta=make_plain(dict(dataset_meta=meta, mmscheme_version=__version__)),
        state_dict={k: v.clone() for k, v in folded.state_dict().items()}), target)
    write_bytes(config, new_cfg.pretty_text.encode())
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, folded)]
    return target, config, difference, (sizes[0], sizes[1])
