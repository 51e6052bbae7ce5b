"""Weights of a classifier for the backbone of a detector or segmenter."""
import logging
from typing import Any, Dict, List, NamedTuple, Optional

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmscheme.registry import HOOKS
from mmscheme.utils.check_args import check_number
from mmscheme.utils.checkpoint_io import find_weights

__all__ = ['LoadReport', 'PretrainedBackboneHook', 'load_matching']


class LoadReport(NamedTuple):
    """What became of a checkpoint in a module, by names.

    Attributes:
        loaded: Keys that both have in the same shape, or that the module made of others.
        missing: Keys of the module alone.
        unexpected: Keys of the checkpoint alone.
        mismatched: Keys of both in different shapes, with the shapes.
        fraction: Share of the module's parameters, by number of values, that was loaded.
    """
    loaded: List[str]
    missing: List[str]
    unexpected: List[str]
    mismatched: List[str]
    fraction: float

    def lines(self) -> List[str]:
        """The report as text, the counts first."""
        kinds = ('missing', 'unexpected', 'mismatched')
        counts = ', '.join(f'{len(getattr(self, k))} {k}' for k in ('loaded', *kinds))
        return [f'{self.fraction:.1%} of the parameters; keys: {counts}',
                *(f'{k}: {", ".join(getattr(self, k))}' for k in kinds if getattr(self, k))]


def load_matching(module: nn.Module, weights: Dict[str, Tensor]) -> LoadReport:
    """Copies the weights that fit into a module.

    Args:
        module: Changed in place.
        weights: Tensors by key.

    Returns:
        What was loaded and what not.
    """
    own = module.state_dict()
    other = {k for k in own if k in weights and own[k].shape != weights[k].shape}
    # All the rest is handed over: a module may know what to do with other keys than its own.
    result = module.load_state_dict({k: v for k, v in weights.items() if k not in other},
                                    strict=False)
    missing = [k for k in result.missing_keys if k not in other]
    loaded = [k for k in own if k not in other and k not in missing]
    sizes = {k: p.numel() for k, p in module.named_parameters()}
    fraction = sum(sizes.get(k, 0) for k in loaded) / max(1, sum(sizes.values()))
    return LoadReport(loaded, missing, list(result.unexpected_keys),
                      [f'{k} {tuple(weights[k].shape)} for {tuple(own[k].shape)}' for k in own
                       if k in other], fraction)


@HOOKS.register_module()
class PretrainedBackboneHook(Hook):
    """Loads the backbone of a checkpoint into the model's before training, and says what fit.

    A run that resumes has its weights already and is left alone.

    Args:
        checkpoint: Path or URL of a classifier, of another model with a ``backbone``, or of
            a backbone alone; None does nothing.
        min_loaded: Share of the backbone's parameters that must be loaded, in [0, 1].

    Raises:
        TypeError, ValueError: ``min_loaded`` is no such number; in training: less was loaded.
    """

    # Before hooks that look at the weights, and before the run counts as started.
    priority = 'VERY_HIGH'

    def __init__(self, checkpoint: Optional[str] = None, min_loaded: float = 0.9) -> None:
        check_number('min_loaded', min_loaded, 'a number in [0, 1]', lambda n: 0 <= n <= 1)
        self.checkpoint = checkpoint
        self.min_loaded = min_loaded

    def before_train(self, runner: Any) -> None:
        """Loads the weights."""
        if self.checkpoint is None or runner.iter > 0:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        backbone = getattr(model, 'backbone', None)
        if backbone is None:
            raise ValueError(f'{self.checkpoint}: the model {type(model).__name__} has no '
                             'backbone to load it into')
        content = CheckpointLoader.load_checkpoint(self.checkpoint, map_location='cpu')
        try:
            weights = _backbone_weights(content)
        except ValueError as e:
            raise ValueError(f'{self.checkpoint}: {e}') from None
        report = load_matching(backbone, weights)
        for line in report.lines():
            print_log(f'backbone from {self.checkpoint}: {line}', logger='current')
        if any(key.startswith('pos_embed ') for key in report.mismatched):
            print_log('the position embeddings of checkpoint and backbone have other sizes: it '
                      'starts anew; backbone.pos_embed=(rows, columns) of the checkpoint takes it',
                      logger='current', level=logging.WARNING)
        if 'pos_embed' in report.unexpected:
            print_log('the checkpoint has a position embedding, the backbone none; '
                      'backbone.pos_embed=True takes it', logger='current',
                      level=logging.WARNING)
        if report.fraction < self.min_loaded:
            raise ValueError(
                f'{self.checkpoint}: {report.fraction:.0%} of the parameters of '
                f'{type(backbone).__name__} were found in it, expected at least '
                f'{self.min_loaded:.0%} (pretrained_backbone.min_loaded); first keys missing: '
                f'{", ".join((report.missing + report.mismatched)[:3])}; first keys in the file: '
                f'{", ".join(report.unexpected[:3])}')


def _backbone_weights(content: Any) -> Dict[str, Tensor]:
    """The tensors of a backbone, with its own keys, from a checkpoint of any model."""
    weights = find_weights(content)
    of_backbone = {k.removeprefix('backbone.'): v for k, v in weights.items()
                   if k.startswith('backbone.')}
    return of_backbone or weights
