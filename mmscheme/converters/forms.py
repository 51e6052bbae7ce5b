"""The form of a SCHEME model: groups and expansion, chosen by what a fit keeps."""
import math
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import torch
from torch import nn

from mmscheme.layers import BlockDiagonalMLP

from .fit import LayerFit, collect, find_ffns, fit_ffn

__all__ = ['Form', 'check_budget', 'compare_forms', 'forms_at']

# As many groups in both layers, which the fused implementations want.
_GROUPS = (1, 2, 3, 4)


class Form(NamedTuple):
    """Groups and expansion of a model's SCHEME mixers."""
    groups: Tuple[int, int]
    expansion: float

    def __str__(self) -> str:
        return f'{self.groups[0]}{self.groups[1]}-e{self.expansion:g}'


def check_budget(budget: float) -> None:
    """Raise a ValueError unless the budget is in (0, 1]."""
    if not 0 < budget <= 1:
        raise ValueError(f'budget: expected a share in (0, 1], found {budget:g}')


def forms_at(budget: float, dense: Dict[str, BlockDiagonalMLP], positions: Dict[str, int]
             ) -> List[Form]:
    """Return the forms whose FFNs cost a share of the dense ones' multiply-adds, or a bit less.

    Args:
        budget: The share, in (0, 1].
        dense: The dense FFNs by name.
        positions: How many positions each is given.

    Raises:
        ValueError: The budget is none, or leaves no form whose widths divide.
    """
    check_budget(budget)
    widths = [(positions[name], ffn.fc1.in_features, ffn.fc2.in_features)
              for name, ffn in dense.items()]
    # Where the stock expansions differ: the one that costs as much.
    stock = (sum(n * c * hidden for n, c, hidden in widths)
             / sum(n * c * c for n, c, _ in widths))
    forms = []
    for groups in _GROUPS:
        exact = budget * stock * groups
        for expansion in (exact, *(math.floor(4 * exact - i) / 4 for i in range(4))):
            hidden = [round(expansion * c) for _, c, _ in widths]
            if min(hidden) >= groups and not any(
                    c % groups or h % groups for h, (_, c, _) in zip(hidden, widths)):
                forms.append(Form((groups, groups), expansion))
                break
    if not forms:
        raise ValueError(f'budget: no form of {list(_GROUPS)} groups divides the channels at '
                         f'{budget:g} of the multiply-adds')
    return forms


def compare_forms(dense: nn.Module, forms: Sequence[Form], build: Callable[[Form], nn.Module],
                  run: Callable[[nn.Module, Any], Any], batches: Sequence[Any], *,
                  max_tokens: int = 12288, seed: int = 0) -> Dict[Form, List[LayerFit]]:
    """Fit every FFN in every form to what reaches it in the dense model.

    Args:
        dense: See :func:`~mmscheme.converters.fit_mixers`.
        forms: The forms.
        build: Makes the block-diagonal model of a form.
        run, batches, max_tokens, seed: See :func:`~mmscheme.converters.fit_mixers`.

    Returns:
        By form, what each FFN keeps.
    """
    ffns = find_ffns(dense)
    dense.eval()
    samples = collect(dense, ffns, ffns, run, batches, max_tokens=max_tokens,
                      generator=torch.Generator().manual_seed(seed))
    reports = {}
    for form in forms:
        targets = find_ffns(build(form))
        reports[form] = [LayerFit(name, *fit_ffn(targets[name], ffns[name], samples[name]))
                         for name in ffns]
    return reports
