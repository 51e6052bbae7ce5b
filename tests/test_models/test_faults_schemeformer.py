"""Small faults of SCHEMEformer that shapes and counts do not show."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmscheme.layers import StarReLU
from mmscheme.models import SCHEMEformer
from mmscheme.models.utils.trial import try_backbone

TINY = dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64), layer_scale_init=1.)


def test_drop_path_skips_whole_branches_of_samples():
    torch.manual_seed(0)
    block = SCHEMEformer(TINY, drop_path_rate=0.5).stages[3][0].train()
    x = torch.randn(200, 64, 2, 2)
    skipped = (block(x) == x).flatten(1).all(1).float().mean()
    assert 0.15 < skipped < 0.35  # both branches of a quarter of the samples
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


@pytest.mark.parametrize('arch, init', [('s12', 1e-5), ('s24', 1e-5), ('s36', 1e-6),
                                        ('m36', 1e-6)])
def test_layer_scale_of_the_family(arch, init):
    scales = [p for n, p in SCHEMEformer(arch, out_indices=(0, )).named_parameters()
              if 'layer_scale' in n]
    assert scales and all((p == init).all() for p in scales)


def test_group_norms_have_torchs_eps():
    norms = [m for m in SCHEMEformer(TINY).modules() if isinstance(m, nn.GroupNorm)]
    assert {(m.num_groups, m.eps) for m in norms} == {(1, 1e-5)} and len(norms) == 12


def test_the_position_embedding_is_resized_bicubically():
    torch.manual_seed(0)
    model = SCHEMEformer(TINY, pos_embed=(3, 5)).eval()
    nn.init.normal_(model.pos_embed)
    seen = []
    model.downsamples[2].register_forward_hook(lambda m, args, out: seen.append(out))
    model.stages[2][0].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model(torch.randn(1, 3, 112, 96))
    expected = F.interpolate(model.pos_embed, seen[0].shape[2:], mode='bicubic')
    assert torch.allclose(seen[1] - seen[0], expected, atol=1e-5)
    assert not torch.allclose(expected, F.interpolate(
        model.pos_embed, seen[0].shape[2:], mode='bilinear'), atol=1e-2)


def test_star_relu_starts_with_mean_zero_and_variance_one():
    torch.manual_seed(0)
    y = StarReLU()(torch.randn(100000))
    assert abs(y.mean()) < 0.02 and abs(y.std() - 1) < 0.05


def test_class_blocks_of_volo_have_no_positions():
    timm = pytest.importorskip('timm')
    model = timm.create_model('volo_d1_224')
    names = [n for n, m in model.named_modules() if n.startswith('post_network')
             and n.endswith('.mlp')]
    trial = try_backbone(model, names)
    assert names and not trial.problem
    assert all(trial.streams[n].extra_tokens is None and not trial.streams[n].problem
               for n in names)
