"""CCA beside tokens that are no positions."""
import math

import pytest
import torch

from mmscheme.layers import ChannelCovarianceAttention
from tests.test_layers.reference import cca_by_loop


@pytest.mark.parametrize('scaling', ['gram', 'covariance'])
@pytest.mark.parametrize('extra', [1, 3])
def test_the_gram_matrix_is_that_of_the_positions(extra, scaling):
    torch.manual_seed(0)
    tokens = torch.randn(2, extra + 12, 9)
    cca = ChannelCovarianceAttention(9, 8, scaling=scaling, num_extra_tokens=extra)
    out = cca(tokens)
    tau = {'gram': (8 * 9)**-0.5, 'covariance': math.sqrt(9) / 12}[scaling]
    positions = cca_by_loop(tokens[:, extra:].transpose(1, 2).unsqueeze(3), tau)
    assert (out[:, extra:] - positions[..., 0].transpose(1, 2)).abs().max() < 1e-5
    # The extra tokens' channels are mixed by the same matrix.
    for sample, mixed in zip(tokens.double(), out):
        rows = sample[extra:].T
        attention = torch.softmax(tau * rows @ rows.T, 1)
        assert (attention @ sample[:extra].T - mixed[:extra].T).abs().max() < 1e-5
