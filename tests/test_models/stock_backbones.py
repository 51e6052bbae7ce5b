"""Stock backbones of all families, and what SCHEME makes of them."""
import copy

import pytest
import torch
from mmengine import ConfigDict
from mmengine.registry import MODELS

from mmscheme.layers import SCHEMEMixer
from mmscheme.models import SCHEMEWrapper

VIT = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=128)
PYRAMID = dict(embed_dims=[16, 32, 48, 64], depths=[1, 1, 2, 1])
# Without dropout: on maps the random numbers depend on the order of the axes in memory.
PVT = dict(num_layers=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], embed_dims=16, drop_path_rate=0.2)
PATCHES = dict(img_size=64, patch_size=16)
DROP = dict(drop_rate=0.1, drop_path_rate=0.2)


def timm_model(name, **kwargs):
    return dict(type='mmpretrain.TIMMBackbone', model_name=name, **kwargs)


# Stock arguments, how many channel mixers there are, and the entries of the state dict that
# one of them has in its layers and between them: all by hand.
BACKBONES = {
    'mmpretrain ViT': (dict(type='mmpretrain.VisionTransformer', arch=VIT, **PATCHES, **DROP,
                            out_type='featmap'), 2, 4),
    'mmpretrain ViT, layer scale': (
        dict(type='mmpretrain.VisionTransformer', arch=VIT, **PATCHES,
             layer_scale_init_value=1e-5, out_type='raw', with_cls_token=False), 2, 4),
    'mmpretrain DeiT': (dict(type='mmpretrain.DistilledVisionTransformer', arch=VIT, **PATCHES,
                             **DROP), 2, 4),
    'mmpretrain DeiT3': (dict(type='mmpretrain.DeiT3', arch=VIT, **PATCHES, **DROP), 2, 4),
    'mmpretrain BEiT': (dict(type='mmpretrain.BEiTViT', arch=VIT, **PATCHES, **DROP), 2, 4),
    # Two in the tokens-to-token module, three in the transformer.
    'mmpretrain T2T-ViT': (
        dict(type='mmpretrain.T2T_ViT', img_size=64, embed_dims=48, num_layers=3,
             t2t_cfg=dict(token_dims=16, use_performer=False), **DROP,
             layer_cfgs=dict(num_heads=2, feedforward_channels=3 * 48)), 5, 4),
    'mmpretrain Swin': (
        dict(type='mmpretrain.SwinTransformer', img_size=64, window_size=2, **DROP,
             arch=dict(embed_dims=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8])), 5, 4),
    'mmpretrain Swin v2': (
        dict(type='mmpretrain.SwinTransformerV2', img_size=64, window_size=2, **DROP,
             arch=dict(embed_dims=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8],
                       extra_norm_every_n_blocks=0)), 5, 4),
    'mmpretrain PCPVT': (
        dict(type='mmpretrain.PCPVT', **DROP, arch=dict(
            **PYRAMID, num_heads=[1, 2, 3, 4], patch_sizes=[4, 2, 2, 2], strides=[4, 2, 2, 2],
            mlp_ratios=[8, 8, 4, 4], sr_ratios=[8, 4, 2, 1])), 5, 4),
    'mmpretrain Twins-SVT': (
        dict(type='mmpretrain.SVT', **DROP, arch=dict(
            **PYRAMID, num_heads=[1, 2, 3, 4], patch_sizes=[4, 2, 2, 2], strides=[4, 2, 2, 2],
            mlp_ratios=[4, 4, 4, 4], sr_ratios=[8, 4, 2, 1], window_sizes=[2, 2, 2, 2])), 5, 4),
    # Each block has two, one after spatial and one after channel attention.
    'mmpretrain DaViT': (
        dict(type='mmpretrain.DaViT', window_size=2, drop_path_rate=0.2,
             arch=dict(embed_dims=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8])), 10, 4),
    'mmpretrain XCiT': (
        dict(type='mmpretrain.XCiT', img_size=64, embed_dims=32, depth=3, num_heads=2,
             cls_attn_layers=2, **DROP), 5, 4),
    # An inner one on pixels and an outer one on patches in each layer.
    'mmpretrain TNT': (
        dict(type='mmpretrain.TNT', img_size=64, **DROP, arch=dict(
            embed_dims_outer=48, embed_dims_inner=12, num_layers=2, num_heads_inner=2,
            num_heads_outer=4)), 4, 4),
    'mmpretrain MLP-Mixer': (
        dict(type='mmpretrain.MlpMixer', **PATCHES, **DROP, arch=dict(
            embed_dims=32, num_layers=2, tokens_mlp_dims=64, channels_mlp_dims=128)), 2, 4),
    'mmpretrain RevViT': (dict(type='mmpretrain.RevVisionTransformer', arch=VIT, **PATCHES), 2, 4),
    'mmpretrain SAM': (dict(type='mmpretrain.ViTSAM', **PATCHES, out_channels=16, window_size=2,
                            arch=dict(**VIT, global_attn_indexes=[1])), 2, 4),
    'mmpretrain PoolFormer': (dict(type='mmpretrain.PoolFormer', arch='s12', frozen_stages=-1,
                                   out_indices=(0, 2, 4, 6), **DROP), 12, 4),
    'mmpretrain RIFormer': (dict(type='mmpretrain.RIFormer', arch='s12', **DROP), 12, 4),
    # A block of the first two stages is two of those with an MLP.
    'mmpretrain HiViT': (
        dict(type='mmpretrain.HiViT', img_size=64, out_indices=[6], **DROP,
             arch=dict(embed_dims=64, depths=[1, 1, 7], num_heads=2)), 11, 4),
    'mmpretrain ConvNeXt': (
        dict(type='mmpretrain.ConvNeXt', drop_path_rate=0.2, out_indices=(0, 1, 2, 3),
             gap_before_final_norm=False,
             arch=dict(depths=[1, 1, 2, 1], channels=[16, 24, 32, 64])), 5, 4),
    'mmpretrain ConvNeXt, convolutions': (
        dict(type='mmpretrain.ConvNeXt', linear_pw_conv=False, use_grn=True,
             layer_scale_init_value=0.,
             arch=dict(depths=[1, 1, 2, 1], channels=[16, 24, 32, 64])), 5, 6),
    'mmpretrain ConvNeXt v2': (
        dict(type='mmpretrain.ConvNeXt', use_grn=True, layer_scale_init_value=0.,
             arch=dict(depths=[1, 1, 2, 1], channels=[16, 24, 32, 64])), 5, 6),
    'mmpretrain VAN': (
        dict(type='mmpretrain.VAN', **DROP, arch=dict(
            embed_dims=[16, 32, 48, 64], depths=[1, 1, 2, 1], ffn_ratios=[8, 8, 4, 4])), 5, 6),
    # Convolution blocks as ConvNeXt's and transposed attention, one of those a stage but the
    # first.
    'mmpretrain EdgeNeXt': (dict(type='mmpretrain.EdgeNeXt', arch='xxsmall', drop_path_rate=0.2),
                            12, 4),
    # The first of its four stages has convolutions.
    'mmpretrain TinyViT': (dict(type='mmpretrain.TinyViT', arch='5m', img_size=(64, 64),
                                window_size=[2, 2, 2, 2], **DROP), 10, 4),
    'mmpretrain HorNet': (
        dict(type='mmpretrain.HorNet', drop_path_rate=0.2, out_indices=(0, 1, 2, 3), arch=dict(
            base_dim=16, depths=[1, 1, 2, 1], orders=[2, 3, 4, 5],
            dw_cfg=[dict(type='DW', kernel_size=7)] * 4)), 5, 4),
    'mmpretrain EVA02': (
        dict(type='mmpretrain.ViTEVA02', **PATCHES, **DROP, arch=dict(
            embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=88)), 2, 4),
    'mmpretrain ViT, SwiGLU': (
        dict(type='mmpretrain.VisionTransformer', **PATCHES, **DROP, layer_scale_init_value=1e-5,
             layer_cfgs=dict(ffn_type='swiglu_fused'), arch=VIT), 2, 4),
    'mmseg ViT': (dict(type='mmseg.VisionTransformer', img_size=64, embed_dims=32, num_layers=2,
                       num_heads=2, out_indices=(0, 1), **DROP), 2, 4),
    'mmseg BEiT': (dict(type='mmseg.BEiT', img_size=64, embed_dims=32, num_layers=2, num_heads=2,
                        out_indices=(0, 1), drop_path_rate=0.2), 2, 4),
    'mmseg MAE': (dict(type='mmseg.MAE', img_size=64, embed_dims=32, num_layers=2, num_heads=2,
                       out_indices=(0, 1)), 2, 4),
    'mmseg Swin': (dict(type='mmseg.SwinTransformer', embed_dims=16, depths=(1, 1, 2, 1),
                        num_heads=(1, 2, 4, 8), window_size=4, **DROP), 5, 4),
    'mmseg PCPVT': (dict(type='mmseg.PCPVT', **PYRAMID, num_heads=[1, 2, 3, 4], **DROP), 5, 4),
    'mmseg Twins-SVT': (dict(type='mmseg.SVT', **PYRAMID, num_heads=[1, 2, 3, 4],
                             strides=[4, 2, 2, 2], mlp_ratios=[4, 4, 4, 4], sr_ratios=[8, 4, 2, 1],
                             windiow_sizes=[2, 2, 2, 2], **DROP), 5, 4),
    'mmseg MiT': (dict(type='mmseg.MixVisionTransformer', **PVT), 5, 6),
    'mmseg MSCAN': (dict(type='mmseg.MSCAN', **PYRAMID, norm_cfg=dict(type='BN'), **DROP), 5, 6),
    'mmdet Swin': (dict(type='mmdet.SwinTransformer', embed_dims=16, depths=(1, 1, 2, 1),
                        num_heads=(1, 2, 4, 8), window_size=4, **DROP), 5, 4),
    'mmdet PVT': (dict(type='mmdet.PyramidVisionTransformer', pretrain_img_size=64, **PVT),
                  5, 4),
    'mmdet PVT v2': (dict(type='mmdet.PyramidVisionTransformerV2', **PVT), 5, 6),
    # StarReLU has a scale and a bias, the layers have none.
    'timm CAFormer': (timm_model('caformer_s18', drop_path_rate=0.2), 18, 4),
    'timm ConvFormer, features': (timm_model('convformer_s18', features_only=True), 18, 4),
    'timm PoolFormer': (timm_model('poolformer_s12'), 12, 4),
    # Transformers in the last two of four stages.
    'timm CoAtNet': (timm_model('coatnet_nano_rw_224', img_size=64), 9, 4),
    'timm Swin': (timm_model('swin_tiny_patch4_window7_224', img_size=64, window_size=2,
                             embed_dim=24, depths=(1, 1, 2, 1), proj_drop_rate=0.1), 5, 4),
    'timm ViT': (timm_model('vit_tiny_patch16_224', img_size=64, depth=2, drop_path_rate=0.2), 2,
                 4),
    'timm ViT, registers': (timm_model('vit_small_patch14_reg4_dinov2', img_size=64,
                                       patch_size=16, depth=2, embed_dim=96, num_heads=3), 2, 4),
    'timm BEiT': (timm_model('beit_base_patch16_224', img_size=64, depth=2, embed_dim=96,
                             num_heads=3), 2, 4),
    'timm MLP-Mixer': (timm_model('mixer_s32_224', img_size=64), 8, 4),
    'timm CaiT': (timm_model('cait_xxs24_224', img_size=64, depth=2), 4, 4),
    'timm XCiT': (timm_model('xcit_nano_12_p16_224', depth=2), 4, 4),
    'timm TNT': (timm_model('tnt_s_patch16_224', img_size=64, depth=2), 4, 4),
    'timm DaViT': (timm_model('davit_tiny', depths=(1, 1, 1, 1), embed_dims=(24, 48, 96, 192)), 8,
                   4),
    'timm EVA02': (timm_model('eva02_tiny_patch14_224', img_size=64, patch_size=16, depth=2,
                              embed_dim=96, num_heads=3, mlp_ratio=8 / 3, drop_path_rate=0.2), 2,
                   4),
    'timm EVA02, norms': (timm_model('eva02_base_patch14_224', img_size=64, patch_size=16, depth=2,
                                     embed_dim=96, num_heads=3), 2, 8),
    'timm ViT, SwiGLU': (timm_model('vit_giant_patch14_reg4_dinov2', img_size=64, patch_size=16,
                                    depth=2, embed_dim=96, num_heads=3), 2, 4),
    'timm PVT v2': (timm_model('pvt_v2_b0', drop_path_rate=0.2), 8, 6),
    'timm TinyViT': (timm_model('tiny_vit_5m_224', drop_path_rate=0.2), 10, 4),
    'timm FastViT': (timm_model('fastvit_t8'), 10, 4),
    'timm RepViT': (timm_model('repvit_m0_9'), 26, 12),
    'timm EfficientViT (MSRA)': (timm_model('efficientvit_m0', features_only=True), 16, 12),
    'timm SHViT': (timm_model('shvit_s1'), 15, 12),
    'timm InceptionNeXt': (timm_model('inception_next_atto', features_only=True), 12,
                           4),
    'timm ConvNeXt v2': (timm_model('convnextv2_atto', depths=(1, 1, 1, 1)), 4, 6),
    'timm ConvNeXt, convolutions': (timm_model('convnextv2_atto', depths=(1, 1, 1, 1),
                                               conv_mlp=True), 4, 6),
}

# More for the support matrix, at the sizes that they have; timm's by their names there.
MORE = {
    'mmpretrain Conformer': dict(type='mmpretrain.Conformer', arch='tiny'),
    'mmpretrain EfficientFormer': dict(type='mmpretrain.EfficientFormer', arch='l1'),
    'mmpretrain MobileViT': dict(type='mmpretrain.MobileViT', arch='xx_small'),
    'mmpretrain MViT': dict(type='mmpretrain.MViT', arch='tiny'),
    'timm CoaT': 'coat_lite_tiny',
    'timm CrossViT': 'crossvit_tiny_240',
    'timm DeiT, distilled': 'deit_tiny_distilled_patch16_224',
    'timm EdgeNeXt': 'edgenext_xx_small',
    'timm EfficientFormer': 'efficientformer_l1',
    'timm FocalNet': 'focalnet_tiny_srf',
    'timm GC ViT': 'gcvit_xxtiny',
    'timm Hiera': 'hiera_tiny_224',
    'timm MaxViT': 'maxvit_rmlp_pico_rw_256',
    'timm MobileViT': 'mobilevit_xxs',
    'timm MobileViT v2': 'mobilevitv2_050',
    'timm MViT v2': 'mvitv2_tiny',
    'timm NesT': 'nest_tiny',
    'timm Next-ViT': 'nextvit_small',
    'timm PiT': 'pit_ti_224',
    'timm ResMLP': 'resmlp_12_224',
    'timm Sequencer2D': 'sequencer2d_s',
    'timm Twins-SVT': 'twins_svt_small',
    'timm VOLO': 'volo_d1_224',
    'timm ViT, relative positions': 'vit_relpos_small_patch16_224',
}
# Families that are refused, or only with an argument, and why: by hand.
REFUSED = {
    'mmpretrain LeViT': (dict(type='mmpretrain.LeViT', arch='128s'),
                         'batch norms of tokens stand behind the linear layers'),
    'mmpretrain RepMLP': (dict(type='mmpretrain.RepMLPNet', arch='B', img_size=224),
                          'batch norms are folded into its layers at deployment'),
    'timm ConViT': ('convit_tiny', 'the class token enters after some of the blocks: '
                    'the number of tokens is not one for all; `cca=False` works'),
    'timm EfficientFormer v2': ('efficientformerv2_s0',
                                'a spatial convolution with norms stands between the layers'),
    'timm EfficientViT (MIT)': ('efficientvit_b0',
                                'a spatial convolution with norms stands between the layers'),
    'timm FasterNet': ('fasternet_t0', 'the layers are in a plain `Sequential`, which '
                       'is no class of its own'),
    'timm gMLP': ('gmlp_s16_224', 'the gate between the layers mixes tokens'),
    'timm LeViT': ('levit_128s',
                   'batch norms of tokens stand behind the linear layers'),
    'timm MambaOut': ('mambaout_femto',
                      'one gated block mixes tokens and channels'),
    'timm StarNet': ('starnet_s1', 'one gated block mixes tokens and channels'),
    'timm SwiftFormer': ('swiftformer_xs',
                         'norms and spatial convolutions are parts of the mixers'),
    'timm Visformer': ('visformer_tiny',
                       'a grouped spatial convolution stands between the layers'),
    'timm ViTamin': ('vitamin_small_224', 'GEGLU with a norm in the module'),
}


def build(cfg, seed=0):
    torch.manual_seed(seed)
    if isinstance(cfg, str):
        return pytest.importorskip('timm').create_model(cfg)
    return MODELS.build(ConfigDict(copy.deepcopy(cfg)))


def wrap(cfg, seed=0, **arguments):
    if isinstance(cfg, str):
        return SCHEMEWrapper(build(cfg, seed), **arguments)
    return build(dict(type='mmscheme.SCHEMEWrapper', backbone=cfg, **arguments), seed)


def flat(outputs):
    """The tensors of what a backbone returns."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in flat(output)]


def run(model, seed=0):
    torch.manual_seed(1)
    images = torch.randn(2, 3, 64, 64)
    torch.manual_seed(seed)
    return flat(model(images))


def mixers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, SCHEMEMixer)}


def excite(model):
    """Moves vectors away from 0: a layer scale of 1e-6 would hide what it scales."""
    torch.manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            if p.numel() == max(p.shape, default=1):
                p += 0.5 * torch.rand_like(p)
