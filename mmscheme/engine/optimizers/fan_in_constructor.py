"""Learning rates that follow the number of inputs of each block."""
import math
from typing import Any, Dict, List, Optional

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmscheme.layers import BlockDiagonalLinear
from mmscheme.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmscheme.utils.check_args import check_number

__all__ = ['FanInOptimWrapperConstructor']


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class FanInOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Multiply the learning rate of block-diagonal weights by ``groups ** power``.

    An output of a block has ``groups`` times fewer inputs than that of the dense layer, so equal
    steps of its weights change it less. With Adam, a power of 1 compensates for this (in arXiv
    2203.03466, rates are inverse to the inputs), and 0.5 for half of it. Dense layers and biases
    keep their rates.

    In a config: ``optim_wrapper=dict(constructor='mmscheme.FanInOptimWrapperConstructor')``.

    Args:
        optim_wrapper_cfg: As in mmengine's constructor; the optimizer must state its ``lr``.
        paramwise_cfg: As there, and ``fan_in_power``: the power, 1 by default.

    Raises:
        TypeError, ValueError: ``fan_in_power`` is not a finite number, or there is no ``lr``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: Optional[dict] = None) -> None:
        # Never empty, because mmengine visits no parameters then.
        super().__init__(optim_wrapper_cfg, {'fan_in_power': 1., **(paramwise_cfg or {})})
        self.power = self.paramwise_cfg['fan_in_power']
        check_number('fan_in_power', self.power, 'a finite number', math.isfinite)
        check_number('optimizer.lr', self.base_lr, 'a number', math.isfinite)

    def add_params(self, params: List[Dict[str, Any]], module: nn.Module, prefix: str = '',
                   is_dcn_module: Any = None) -> None:
        """Add the parameters of a module, and of those in it, to the groups of the optimizer."""
        start = len(params)
        super().add_params(params, module, prefix, is_dcn_module)
        if isinstance(module, BlockDiagonalLinear):
            for group in params[start:]:
                if group['params'][0] is module.weight:
                    group['lr'] = group.get('lr', self.base_lr) * module.groups**self.power
