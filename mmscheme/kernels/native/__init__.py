"""The channel mixer on the CPU in C++, built by the machine's own compiler at its first use."""
from .build import problem
from .operators import (
                        backward,
                        covariance_attention,
                        covariance_backward,
                        covariance_forward,
                        forward,
)

__all__ = [
    'backward', 'covariance_attention', 'covariance_backward', 'covariance_forward', 'forward',
    'problem'
]
