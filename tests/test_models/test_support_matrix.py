"""The whole support matrix against the generic detector and trials of class tokens."""
from contextlib import ExitStack

import pytest
import torch

from mmscheme.models.utils.dense_mixers import find_dense_pairs
from mmscheme.models.utils.trial import _AttentionOff, _in_plain_attention
from tests.commands import load_script
from tests.test_models.stock_backbones import BACKBONES, MORE, REFUSED, build, mixers, wrap
from tests.utils import REPOSITORY

MATRIX = {**{name: row[0] for name, row in BACKBONES.items()}, **MORE}
TOKENS = ('cls_token', 'dist_token', 'reg_token', 'class_token')
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _timm(request):
    if 'timm' in request.node.name:
        pytest.importorskip('timm')


def is_table(holder):
    """Return True for an MLP of coordinates, which is no channel mixer."""
    return holder.endswith(('cpb_mlp', 'rel_pos'))


@pytest.mark.parametrize('name', MATRIX)
def test_everything_that_the_detector_finds_is_replaced(name):
    stock = build(MATRIX[name])
    pairs = {h.removesuffix('.layers') for h in find_dense_pairs(stock).values()
             if not is_table(h)}
    wrapped = wrap(MATRIX[name], groups='auto', strict=True)
    ends = ('.mixer', '.layers', '.fc1', '.pointwise_conv1', '.pwconv1')
    own = set()
    for key in mixers(wrapped):
        for end in ends:
            key = key.removesuffix(end)
        own.add(key)
    assert own == pairs
    assert not [h for h in find_dense_pairs(wrapped).values() if not is_table(h)]


def images_for(model):
    """Return images of a size that the model takes."""
    for size in (64, 224, 240, 256):
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                model(images)
        except (RuntimeError, AssertionError, ValueError):
            continue
        return images
    raise AssertionError('no size fits')


@pytest.mark.parametrize('name', MATRIX)
def test_class_tokens_alone_change_no_gram_matrix(name):
    """Where no token learns of another: with attention off, other tokens stay as they are."""
    model = wrap(MATRIX[name], groups='auto')
    model.eval()
    tokens = [p for key, p in model.named_parameters()
              if key.rpartition('.')[2].startswith(TOKENS)]
    counts = [m.cca.num_extra_tokens for m in mixers(model).values() if m.cca is not None]
    if not tokens:
        assert not any(counts)
        return
    images, runs = images_for(model), []
    for _ in range(2):
        seen = []
        with ExitStack() as stack:
            for mixer in mixers(model).values():
                if mixer.cca is not None:
                    handle = mixer.register_forward_pre_hook(
                        lambda m, args, seen=seen: seen.append(
                            (m.cca.num_extra_tokens, args[0])))
                    stack.callback(handle.remove)
            stack.enter_context(torch.no_grad())
            stack.enter_context(_in_plain_attention())
            stack.enter_context(_AttentionOff())
            model(images)
        runs.append(seen)
        with torch.no_grad():
            for p in tokens:
                p += torch.randn_like(p)
    changed = 0
    for (extra, a), (_, b) in zip(*runs):
        changed += not a.equal(b)
        if a.dim() == 3:
            a, b = a[:, extra:], b[:, extra:]
            assert (a.mT @ a).equal(b.mT @ b)
        assert a.equal(b)
    # Where class tokens enter a mixer with CCA, this has seen them.
    assert (changed > 0) == any(counts)


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_refused(name):
    with pytest.raises(ValueError, match='^(backbone|extra_tokens): '):
        wrap(REFUSED[name][0], groups='auto')


def test_the_table_is_that_of_the_code():
    pytest.importorskip('timm')
    text = load_script('.dev_scripts/support_matrix.py').make_text()
    assert text == (REPOSITORY / 'docs' / 'support.md').read_text()
