"""Token mixers against loops and torch's own attention."""
import pytest
import torch
from torch import nn

from mmscheme.layers import Pooling, SelfAttention


def test_pooling_equals_a_loop():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 4)
    out = Pooling(2)(x)
    for r in range(5):
        for c in range(4):
            window = x[:, :, max(r - 1, 0):r + 2, max(c - 1, 0):c + 2]
            assert torch.allclose(out[:, :, r, c], window.mean((2, 3)) - x[:, :, r, c], atol=1e-6)


def test_attention_equals_torch_multi_head_attention():
    torch.manual_seed(0)
    ours = SelfAttention(96).eval()
    theirs = nn.MultiheadAttention(96, 3, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(2, 96, 5, 3)
    tokens = x.flatten(2).transpose(1, 2)
    expected = theirs(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)
    assert torch.allclose(ours(x), expected, atol=1e-6)


def test_attention_width_is_checked():
    with pytest.raises(ValueError, match='embed_dims=40 .* multiple of its head width 32'):
        SelfAttention(40)
