"""Parts of whole models: by name, in encoders, with padding and another initialisation."""
import copy
import pickle

import mmdet
import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope
from torch.utils.checkpoint import checkpoint

from mmscheme.layers import ChannelCovarianceAttention, SCHEMEMixer
from mmscheme.models import SCHEMEWrapper
from mmscheme.models.utils import find_channel_mixers, select_mixers
from mmscheme.models.utils.dense_mixers import is_within
from mmscheme.utils.quiet import quiet
from tests.models import check_step_and_prediction, stock
from tests.test_models.stock_backbones import BACKBONES, wrap
from tests.utils import readme_code

DETR = 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'
# Four scales of a small image, one after the other.
SCALES = torch.tensor([(8, 6), (4, 3), (2, 2), (1, 1)])
STARTS = torch.tensor([0, 48, 60, 64])


def config(name=DETR, **wrapper):
    """A stock config with a small backbone and two layers a coder, and its wrapper."""
    cfg = Config.fromfile(stock(mmdet, name))
    cfg.default_scope = 'mmdet'
    cfg.model.backbone.update(depth=18, init_cfg=None, frozen_stages=-1)
    cfg.model.neck.in_channels = [128, 256, 512]
    cfg.model.num_queries = 20
    for part in ('encoder', 'decoder'):
        cfg.model[part].num_layers = 2
    return cfg, dict(type='mmscheme.SCHEMEWrapper', backbone=cfg.model, **wrapper)


def build(model):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(model)


@pytest.fixture(scope='module')
def dense():
    """A stock detector; tests change copies of it."""
    model = build(config()[0].model)
    with quiet():
        model.init_weights()
    return model


def mixers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, SCHEMEMixer)}


def encode(encoder, query, padding):
    return encoder(query=query, query_pos=torch.zeros_like(query), key_padding_mask=padding,
                   spatial_shapes=SCALES, level_start_index=STARTS,
                   valid_ratios=torch.ones(len(query), 4, 2))


@pytest.mark.parametrize('name', [
    DETR, pytest.param('dino/dino-4scale_r50_8xb2-12e_coco.py', marks=pytest.mark.slow)])
def test_an_encoder_trains_a_step(name):
    cfg, wrapper = config(name, within='encoder')
    model = build(wrapper)
    assert list(mixers(model)) == [f'encoder.layers.{i}.ffn.layers' for i in range(2)]
    assert all(m.cca.num_extra_tokens == 0 for m in mixers(model).values())
    check_step_and_prediction(model, cfg)


@pytest.mark.parametrize('groups, expansion', [((4, 4), 8), ((2, 4), 4), (2, 2)])
def test_ffns_start_with_the_variance_of_the_dense_ones(groups, expansion, dense):
    model = SCHEMEWrapper(copy.deepcopy(dense), groups, expansion=expansion)
    x = torch.randn(1, 1000, 256)

    def spread(ffns):
        with torch.no_grad():
            return sum(float(ffn(x).var()) for ffn in ffns) / 4

    truth = spread(layer.ffn.layers for coder in (dense.encoder, dense.decoder)
                   for layer in coder.layers)
    for network in (model, pickle.loads(pickle.dumps(copy.deepcopy(model)))):
        before = spread(m.ffn for m in mixers(network).values())
        network.is_init = False
        with quiet():
            network.init_weights()
        assert spread(m.ffn for m in mixers(network).values()) == pytest.approx(truth, rel=0.1)
        assert before != pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize('scaling', ['gram', 'covariance'])
def test_padding_has_no_part_in_cca(scaling, dense):
    torch.manual_seed(0)
    model = SCHEMEWrapper(copy.deepcopy(dense), within='encoder', cca_scaling=scaling)
    model = copy.deepcopy(model).train()
    for m in model.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.
    x = torch.randn(2, 65, 256)
    padding = torch.rand(2, 65) < torch.tensor([[0.], [0.5]])
    other = torch.where(padding[..., None], 10 * torch.randn_like(x), x)
    with torch.no_grad():
        a, b = (encode(model.encoder, value, padding) for value in (x, other))
        assert torch.allclose(a[~padding], b[~padding], atol=1e-5)
        whole = encode(model.encoder, x, None)
        assert torch.allclose(a[0], whole[0], atol=1e-5)
        assert not torch.allclose(a[1][~padding[1]], whole[1][~padding[1]], atol=1e-3)
        # The image by itself, without the padding.
        cca = ChannelCovarianceAttention(256, scaling=scaling)
        alone = cca(x[1:, ~padding[1]])
        cca.padding = padding
        assert torch.allclose(cca(x)[1:, ~padding[1]], alone, atol=1e-5)
    # Checkpointing calls what is in a layer again, after another batch had no padding.
    layer, found = model.encoder.layers[0], []
    points = torch.rand(2, 65, 4, 2)

    def run(query, mask):
        return layer(query=query, query_pos=None, key_padding_mask=mask, spatial_shapes=SCALES,
                     level_start_index=STARTS, reference_points=points)

    for saving in (False, True):
        model.zero_grad()
        y = checkpoint(run, x, padding, use_reentrant=False) if saving else run(x, padding)
        if saving:
            run(x, None)
        y[~padding].square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in layer.parameters()]))
    assert torch.allclose(*found, rtol=1e-4, atol=1e-4 * float(found[0].abs().max()))


def test_decoders_have_no_cca(dense):
    own = mixers(SCHEMEWrapper(copy.deepcopy(dense)))
    assert len(own) == 4
    assert all((m.cca is None) == name.startswith('decoder') for name, m in own.items())


def test_heads_stay_and_the_backbone_is_wrapped_as_by_itself(tmp_path):
    cfg = BACKBONES['mmseg MiT'][0]
    head = dict(type='FCNHead', in_channels=128, channels=128, num_classes=2, num_convs=0,
                concat_input=False)
    init_default_scope('mmseg')
    model = SCHEMEWrapper(dict(type='EncoderDecoder', backbone=dict(cfg), decode_head=head),
                          data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)))
    assert type(model.data_preprocessor).__name__ == 'SegDataPreProcessor'
    alone = wrap(cfg)
    assert {f'backbone.{k}' for k in alone.state_dict()} == {
        k for k in model.state_dict() if k.startswith('backbone')}
    assert [m.cca is None for m in mixers(model).values()] == [
        m.cca is None for m in mixers(alone).values()]
    # Only what is drawn is scaled, not what a checkpoint has.
    weights = {k: torch.randn_like(v) if v.is_floating_point() else v
               for k, v in model.state_dict().items()}
    torch.save(weights, tmp_path / 'own.pth')
    model.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'own.pth'))
    model.init_weights()
    assert all(v.equal(weights[k]) for k, v in model.state_dict().items())


def test_dense_weights_load_by_their_names(dense):
    model = SCHEMEWrapper(copy.deepcopy(dense), 1, expansion=None, cca=False,
                          seed_from_dense=True)
    for p in model.parameters():
        p.data.zero_()
    assert not any(model.load_state_dict(dense.state_dict()))
    x = torch.randn(2, 65, 256)
    with torch.no_grad():
        a, b = (encode(m.eval().encoder, x, None) for m in (model, dense))
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize('within, exclude, expected', [
    (None, None, 'e0 e1 d0 d1'), ('encoder', None, 'e0 e1'), ('decoder.layers.1', None, 'd1'),
    ('layers.0', None, 'e0 d0'), ('*coder', 'layers.[1-9]', 'e0 d0'),
    (['encoder', 'decoder.layers.0'], ('encoder.layers.1', ), 'e0 d0')])
def test_names(within, exclude, expected, dense):
    found = select_mixers(find_channel_mixers(dense), within, exclude)
    assert [f'{m.name[0]}{m.name.split(".")[2]}' for m in found] == expected.split()


@pytest.mark.parametrize('name, pattern, expected', [
    ('panoptic_head.pixel_decoder.encoder.layers.0.ffn', 'encoder', True),
    ('panoptic_head.pixel_decoder.encoder.layers.0.ffn', 'decoder', False),
    ('panoptic_head.pixel_decoder.encoder.layers.0.ffn', 'pixel_decoder.encoder', True),
    ('backbone.stages.10.ffn', 'stages.1', False), ('backbone.stages.10.ffn', 'stages.1?', True)])
def test_a_pattern_is_of_whole_parts(name, pattern, expected):
    assert is_within(name, [pattern]) == expected


@pytest.mark.parametrize('arguments, error, words', [
    (dict(within='encodr'), ValueError, ('within', 'encodr', 'encoder.layers', 'decoder.layers')),
    (dict(within=('encoder', 'neck')), ValueError, ('within', 'neck')),
    (dict(exclude='encodr'), ValueError, ('exclude', 'encodr', 'encoder.layers')),
    (dict(within='encoder', exclude='layers'), ValueError, ('exclude', 'layers')),
    (dict(within=()), ValueError, ('within', )),
    (dict(within=3), TypeError, ('within', '3')),
    (dict(exclude=['encoder', None]), TypeError, ('exclude', ))])
def test_bad_names(arguments, error, words, dense):
    with pytest.raises(error) as caught:
        SCHEMEWrapper(copy.deepcopy(dense), **arguments)
    text = str(caught.value)
    assert '\n' not in text and all(word in text for word in words)


def test_the_page(tmp_path):
    path = stock(mmdet, 'dino/dino-4scale_r50_8xb2-12e_coco.py')
    (tmp_path / 'mine.py').write_text(f"_base_ = '{path}'\n" + readme_code('parts of a model'))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    cfg.model.backbone.backbone = dict(type='SwinTransformer', embed_dims=24, depths=(1, 1, 1, 1),
                                       num_heads=(1, 1, 1, 1), out_indices=(1, 2, 3))
    own = mixers(build(cfg.model))
    assert {name.split('.')[0] for name in own} == {'backbone', 'encoder'} and len(own) == 10
