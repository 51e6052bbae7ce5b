"""FFNs of many families, fitted in block-diagonal form."""
import copy

import pytest
import torch
from mmdet.models.layers import DetrTransformerEncoder

from mmscheme.converters import Form, compare_forms, fit_mixers, forms_at
from mmscheme.converters.fit import count_positions, find_ffns
from mmscheme.models import SCHEMEWrapper
from tests.test_models.stock_backbones import BACKBONES, build, excite, flat, timm_model

SMALL = {
    'mmpretrain PoolFormer': dict(type='mmpretrain.PoolFormer', frozen_stages=-1, arch=dict(
        layers=[1, 1, 2, 1], embed_dims=[16, 32, 48, 64], mlp_ratios=[4] * 4,
        layer_scale_init_value=1e-5)),
    'timm PVT v2': timm_model('pvt_v2_b0', depths=(1, 1, 1, 1), embed_dims=(16, 32, 80, 64))}
FAMILIES = ['mmseg Swin', 'mmpretrain DeiT', 'mmpretrain TNT', 'mmpretrain PoolFormer',
            'mmpretrain ConvNeXt', 'mmpretrain ConvNeXt v2', 'mmseg MiT', 'mmdet PVT v2',
            'mmseg MSCAN', 'mmpretrain ViT, SwiGLU', 'timm CAFormer', 'timm PVT v2',
            *(pytest.param(name, marks=pytest.mark.slow) for name in (
                'timm EVA02, norms', 'timm ConvNeXt, convolutions', 'timm RepViT')),
            'DETR encoder']


def encode(model, images):
    """Run an encoder on pixels as its tokens, everything else on images."""
    if not isinstance(model, DetrTransformerEncoder):
        return model(images)
    tokens = images[:, :, ::16, ::16].flatten(2).mT.repeat(1, 1, 16)[..., :32]
    return model(query=tokens, query_pos=torch.zeros_like(tokens), key_padding_mask=None)


def detr_encoder():
    torch.manual_seed(0)
    attention = dict(embed_dims=32, num_heads=2, batch_first=True)
    ffn = dict(embed_dims=32, feedforward_channels=64, act_cfg=dict(type='ReLU'))
    return DetrTransformerEncoder(2, dict(self_attn_cfg=attention, ffn_cfg=ffn))


def caformer():
    from timm.models import metaformer as timm
    torch.manual_seed(0)
    return timm.MetaFormer(
        depths=(1, 1, 1, 1), dims=(16, 32, 64, 64),
        token_mixers=[timm.SepConv, timm.SepConv, timm.Attention, timm.Attention],
        norm_layers=[timm.LayerNorm2dNoBias] * 2 + [timm.LayerNormNoBias] * 2)


def dense_twin(name):
    """A dense model whose mixers are SCHEME mixers of one block."""
    if 'timm' in name:
        pytest.importorskip('timm')
    made = {'DETR encoder': detr_encoder, 'timm CAFormer': caformer}.get(name)
    dense = made() if made else build(SMALL.get(name) or BACKBONES[name][0])
    excite(dense)
    dense.eval()
    twin = SCHEMEWrapper(copy.deepcopy(dense), 1, expansion=None, seed_from_dense=True, cca=False)
    for a, b in zip(flat(encode(dense, IMAGES[0])), flat(encode(twin, IMAGES[0]))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
    twin.eval()     # some return nothing
    return dense, twin


IMAGES = torch.randn(8, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def check_equal(a, b):
    with torch.no_grad():
        for x, y in zip(flat(encode(a, IMAGES[0])), flat(encode(b, IMAGES[0]))):
            assert (x - y).abs().max() < 1e-4 * x.abs().max()


def hide_blocks(ffn, groups):
    """Leave two layers the weights in the blocks on their diagonals."""
    hidden, channels = ffn.fc2.in_features, ffn.fc2.out_features
    unit, channel = (torch.arange(n) * groups // n for n in (hidden, channels))
    inside = unit[:, None] == channel
    with torch.no_grad():
        # Of a gated one the gates and the values.
        ffn.fc1.weight.mul_(inside.repeat(ffn.fc1.out_features // hidden, 1))
        ffn.fc2.weight.mul_(inside.T)


@pytest.mark.parametrize('name', FAMILIES)
@torch.no_grad()
def test_what_the_student_can_hold_is_found(name):
    dense, twin = dense_twin(name)
    for groups in (1, 2):
        if groups > 1:
            for ffn in find_ffns(twin).values():
                hide_blocks(ffn, groups)
        torch.manual_seed(3)
        student = SCHEMEWrapper(copy.deepcopy(dense), groups, expansion=None, cca=False)
        seen = []
        report = fit_mixers(student, twin, encode, IMAGES, progress=seen.append)
        assert seen == report and {fit.name for fit in report} == {*find_ffns(student)}
        if (name, groups) == ('timm EVA02, norms', 2):
            # Its norm is over units of all blocks, of which a choice knows those of one.
            assert min(fit.fitted for fit in report) > 0.99
            continue
        assert min(fit.fitted for fit in report) > 0.9999
        check_equal(twin, student)


@torch.no_grad()
def test_forms_at_a_budget_and_what_they_keep():
    dense, twin = dense_twin('mmseg Swin')
    ffns = find_ffns(twin)
    positions = count_positions(twin, ffns, encode, IMAGES)
    assert list(positions.values()) == [512, 128, 32, 32, 8]    # of two images
    forms = forms_at(0.5, ffns, positions)
    assert [str(form) for form in forms] == ['11-e2', '22-e4', '44-e8']
    assert forms_at(1, ffns, positions)[1] == Form((2, 2), 8)
    for ffn in ffns.values():
        hide_blocks(ffn, 4)
    reports = compare_forms(twin, forms, lambda form: SCHEMEWrapper(
        copy.deepcopy(dense), form.groups, expansion=form.expansion, cca=False), encode, IMAGES)
    kept = {str(form): min(fit.fitted for fit in fits) for form, fits in reports.items()}
    assert kept['44-e8'] > 0.9999 > kept['11-e2']
    for budget in (0, 1.5):
        with pytest.raises(ValueError, match='budget'):
            forms_at(budget, ffns, positions)


def test_stock_expansions_that_differ_cost_the_budget_together():
    _, twin = dense_twin('mmpretrain PCPVT')     # 8, 8, 4, 4
    ffns = find_ffns(twin)
    positions = count_positions(twin, ffns, encode, IMAGES)

    def cost(hidden, groups):
        return sum(2 * positions[n] * f.fc1.in_features * hidden(f) / groups
                   for n, f in ffns.items())

    stock = cost(lambda f: f.fc2.in_features, 1)
    for form in forms_at(0.5, ffns, positions):
        share = cost(lambda f, e=form.expansion: round(e * f.fc1.in_features),
                     form.groups[0]) / stock
        assert 0.4 < share < 0.52, form


def test_models_that_do_not_belong_together():
    _, twin = dense_twin('mmpretrain DeiT')
    student = SCHEMEWrapper(build(BACKBONES['mmpretrain DeiT'][0]), 2, cca=False)
    with pytest.raises(ValueError, match='dense FFN'):
        fit_mixers(student, student, encode, IMAGES)
    with pytest.raises(ValueError, match='batches'):
        fit_mixers(student, twin, encode, IMAGES[:2])
    with pytest.raises(ValueError, match='reach'):
        fit_mixers(student, twin, lambda model, images: None, IMAGES)
