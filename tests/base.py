"""Tests that every backbone passes."""
import pytest
import torch


class BackboneTester:
    """Test a family of backbones.

    A subclass has a fixture ``build``, with a parameter for each member of the family: a
    function that builds the backbone and takes the number of input channels.
    """
    strides = (4, 8, 16, 32)

    @pytest.mark.parametrize('size', [(64, 64), (97, 65), (33, 130), (3, 3)])
    def test_any_size_gives_maps_at_its_strides(self, build, size):
        model = build(in_channels=5).eval()
        with torch.no_grad():
            maps = model(torch.randn(2, 5, *size))
        assert len(maps) == len(self.strides)
        for out, stride in zip(maps, self.strides):
            assert out.isfinite().all()
            assert out.shape[2:] == tuple(self.length(side, stride) for side in size)
        assert {len(out) for out in maps} == {2}

    @staticmethod
    def length(size, stride):
        """Return how many positions fit: of kernels of 7 at stride 4, then of 3 at stride 2."""
        length = (size - 3) // 4 + 1
        while stride > 4:
            length, stride = (length - 1) // 2 + 1, stride // 2
        return length

    def test_every_parameter_gets_a_gradient(self, build):
        model = build().train()
        outs = model(torch.randn(2, 3, 65, 66))
        sum((out * torch.randn_like(out)).sum() for out in outs).backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]

    def test_the_same_weights_give_the_same_maps(self, build):
        model, other = build().eval(), build().eval()
        assert not any(other.load_state_dict(model.state_dict()))
        x = torch.randn(2, 3, 65, 66)
        with torch.no_grad():
            assert all(a.equal(b) for a, b in zip(model(x), other(x)))

    def test_compiles_in_one_graph(self, build):
        torch._dynamo.reset()
        model, x = build(), torch.randn(2, 3, 64, 64)
        compiled = torch.compile(model, fullgraph=True, backend='eager')
        for a, b in zip(model(x), compiled(x)):
            assert torch.allclose(a, b, atol=1e-5)

    def test_exports(self, build):
        model, x = build().eval(), torch.randn(1, 3, 64, 64)
        exported = torch.export.export(model, (x, )).module()
        for a, b in zip(model(x), exported(x)):
            assert torch.allclose(a, b, atol=1e-4)
