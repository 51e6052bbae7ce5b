"""The mixer's options, which SCHEMEMixer alone declares, reach it from everywhere."""
import inspect

import pytest
from torch import nn

from mmscheme.layers import SCHEMEMixer
from mmscheme.models import (
    MLIT_ARCHS,
    SCHEMEFFN,
    BlockDiagonalFFN,
    MLiT,
    SCHEMEformer,
    SCHEMEWrapper,
)

#: Every option with a value that is not its default.
VALUES = dict(cca=True, guide='dense', sample_guide=True, keep_cca=True,
              cca_scaling='covariance', cca_tau=2., alpha_init=0.3, interleave=True, init_std=0.1,
              match_variance=False, implementation='plain')
ARCH = dict(depths=(1, 1, 1, 1), embed_dims=(32, ) * 4)
STOCK = dict(type='mmseg.MixVisionTransformer', embed_dims=8, num_layers=(1, 1, 1, 1),
             num_heads=(1, 1, 1, 1))
BUILD = {
    'SCHEMEformer': lambda **options: SCHEMEformer(ARCH, **options),
    'SCHEMEFFN': lambda **options: SCHEMEFFN(embed_dims=8, **options),
    'SCHEMEWrapper': lambda **options: SCHEMEWrapper(dict(STOCK), **options),
}


@pytest.mark.parametrize('build', BUILD)
def test_every_option_reaches_every_mixer(build, monkeypatch):
    seen, init = [], SCHEMEMixer.__init__

    def record(self, *args, **kwargs):
        seen.append(kwargs)
        init(self, *args, **kwargs)

    monkeypatch.setattr(SCHEMEMixer, '__init__', record)
    model = BUILD[build](**VALUES)
    mixers = [m for m in model.modules() if isinstance(m, SCHEMEMixer)]
    assert len(seen) == len(mixers) > 0
    # Every other block of a width interleaves: all are the first of theirs but in the last case.
    width = {id(m): m.ffn.fc1.in_features for m in mixers}
    others = [build == 'SCHEMEWrapper' and [*width.values()][:i].count(w) % 2
              for i, w in enumerate(width.values())]
    for kwargs, other in zip(seen, others):
        assert dict(VALUES, interleave=not other).items() <= kwargs.items()


def test_here_are_all_options():
    declared = {p.name for p in inspect.signature(SCHEMEMixer).parameters.values()
                if p.kind is p.KEYWORD_ONLY}
    assert declared == {*VALUES, 'act_layer', 'drop'}
    for build in (SCHEMEformer, SCHEMEFFN, SCHEMEWrapper):
        assert set(VALUES) <= set(inspect.signature(build).parameters)


@pytest.mark.parametrize('build, argument, close', [
    ('SCHEMEformer', 'expantion', 'expansion'), ('SCHEMEformer', 'keep_ca', 'keep_cca'),
    ('SCHEMEFFN', 'feedforward_chanels', 'feedforward_channels'),
    ('SCHEMEWrapper', 'cca_scalng', 'cca_scaling'), ('SCHEMEWrapper', 'stage', 'stages')])
def test_a_typo_is_found_before_anything_is_built(build, argument, close, monkeypatch):
    monkeypatch.setattr(nn.Module, '__init__', lambda *args: pytest.fail('built'))
    with pytest.raises(TypeError, match=f'^{argument}: .*{build}.* {close}') as error:
        BUILD[build](**{argument: 1})
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('build', [
    lambda: SCHEMEformer(dict(ARCH, num_layers=12)), lambda: MLiT(dict(MLIT_ARCHS['s'], depths=1)),
    lambda: SCHEMEWrapper(dict(STOCK), arch='s12')])
def test_keys_of_a_dict_that_was_inherited(build):
    with pytest.raises((TypeError, ValueError), match='^arch: .*_delete_=True'):
        build()


@pytest.mark.parametrize('option', ['act_layer', 'drop', 'hidden_dims'])
def test_what_the_builder_sets_is_no_option(option):
    with pytest.raises(TypeError, match=option):
        SCHEMEformer(ARCH, **{option: 1})
    with pytest.raises(TypeError, match=option):
        BlockDiagonalFFN(embed_dims=8, **{option: 1})
