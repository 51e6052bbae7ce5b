"""The operators against compiled mmcv: kept values everywhere, and itself where it is there."""

import pytest
import torch

from tests.test_mmcv_ext import reference
from tests.test_mmcv_ext.cases import cases

CASES = cases()
REFERENCE = reference.read()


def close(found, expected, tolerance=1e-5):
    """Outputs and gradients agree, relative to the largest value of each."""
    assert len(found) == len(expected)
    for mine, other in zip(found, expected):
        assert mine.shape == other.shape and mine.dtype == other.dtype
        if mine.is_floating_point():
            scale = float(other.abs().nan_to_num().max()) if other.numel() else 1.
            torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance * scale,
                                       equal_nan=True)
        else:
            assert torch.equal(mine, other)


def test_every_case_has_a_reference():
    assert list(CASES) == list(REFERENCE)


@pytest.mark.parametrize('name', CASES)
def test_equals_the_kept_values(ours, name):
    close(CASES[name](), REFERENCE[name])


def test_kept_values_are_those_of_compiled_mmcv(compiled):
    for name, case in CASES.items():
        close(case(), REFERENCE[name])
