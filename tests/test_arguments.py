"""Every argument of what users build, with values of every kind: built, or named by the error."""
import inspect
import re

import numpy as np
import pytest
import torch
from torch import nn

from mmscheme import layers
from mmscheme.engine import hooks
from mmscheme.models import SCHEMEFFN, BlockDiagonalFFN, SCHEMEformer, SCHEMEWrapper

ODD = ['text', 'no', None, -1, 0, 1.5, 1e300, (1, ), (0, 4), [2, 2], [1.0], [True], [], {}, True,
       float('nan'), float('inf'), {'type': 'nothing'}, torch.ones(2), object()]
# mmengine reads the first when weights are initialised, the second is opened in training.
OTHERS = {'init_cfg', 'checkpoint'}


def stock():
    """A backbone to wrap."""
    from mmpretrain.models import VisionTransformer
    return VisionTransformer(img_size=32, patch_size=16, arch=dict(
        embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32))


RIGHT = {
    layers.BlockDiagonalLinear: dict(in_features=8, out_features=8),
    layers.BlockDiagonalMLP: dict(embed_dims=8),
    layers.ChannelCovarianceAttention: dict(embed_dims=8),
    layers.DenseGuide: dict(ffn=lambda: layers.BlockDiagonalMLP(8)),
    layers.GroupedQueryAttention: dict(embed_dims=8, num_heads=2),
    layers.Pooling: dict(embed_dims=8),
    layers.SCHEMEMixer: dict(embed_dims=8),
    layers.SelfAttention: dict(embed_dims=8, head_dims=4),
    layers.SharedExpertFFN: dict(embed_dims=8),
    layers.ShuffledGELU: {},
    layers.StarReLU: {},
    BlockDiagonalFFN: dict(embed_dims=8),
    SCHEMEFFN: dict(embed_dims=8),
    SCHEMEformer: dict(arch=dict(depths=(1, 1, 1, 1), embed_dims=(32, 32, 32, 32))),
    SCHEMEWrapper: dict(backbone=stock),
    hooks.MixingScheduleHook: {},
    hooks.MixingWeightsHook: {},
    hooks.NonFiniteLossHook: {},
    hooks.PretrainedBackboneHook: dict(checkpoint='weights.pth'),
}


def test_all_layers_are_here():
    public = [getattr(layers, name) for name in layers.__all__]
    assert {o for o in public if inspect.isclass(o) and issubclass(o, nn.Module)} <= set(RIGHT)


@pytest.mark.parametrize('build, argument', [
    pytest.param(build, argument, id=f'{build.__name__}-{argument}') for build in RIGHT
    for argument in inspect.signature(build).parameters if argument not in OTHERS])
def test_the_error_names_the_argument(build, argument):
    # Pooling is built like the other token mixers and does not look at the channels.
    unused = build is layers.Pooling and argument == 'embed_dims'
    refused = 0
    for value in ODD:
        arguments = {key: right() if callable(right) else right
                     for key, right in RIGHT[build].items()}
        try:
            build(**{**arguments, argument: value})
        except (TypeError, ValueError) as e:
            # The backbone says the stage before it.
            assert re.search(rf'(^|: ){argument}[: ]|{argument}=', str(e)), (value, e)
            refused += 1
    assert refused or unused


@pytest.mark.parametrize('key', ['depths', 'embed_dims', 'token_mixers', 'layer_scale_init'])
def test_the_error_names_the_key_of_the_arch(key):
    arch = dict(depths=(1, 1, 1, 1), embed_dims=(32, 32, 32, 32),
                token_mixers=('pool', 'pool', 'attention', 'attention'), layer_scale_init=1e-5)
    refused = 0
    for value in [*ODD, *([odd, *arch[key][1:]] for odd in ODD if key != 'layer_scale_init')]:
        try:
            SCHEMEformer({**arch, key: value})
        except (TypeError, ValueError) as e:
            assert f'arch.{key}' in str(e) or 'stage 0' in str(e), (value, e)
            refused += 1
    assert refused > 10


def test_numbers_of_numpy_are_numbers():
    wide = dict(depths=np.ones(4, int).tolist(), embed_dims=[np.int64(32)] * 4)
    model = SCHEMEformer(wide, groups=np.int64(2), out_indices=np.arange(1, 3), cca=np.bool_(False),
                         drop_path_rate=np.float32(0.5), frozen_stages=np.int64(0), pos_embed=None)
    assert model.out_indices == (1, 2) and model.pos_embed is None
    assert model.stages[0][0].channel_mixer.ffn.fc1.groups == 2
    assert SCHEMEformer(wide, groups=(np.int64(4), 2), out_indices=range(4)).out_indices == (
        0, 1, 2, 3)
