"""Weights of a classifier for the backbone of a detector or segmenter."""
import logging
import sys
from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper

from mmscheme.registry import HOOKS
from mmscheme.utils.check_args import check_number
from mmscheme.utils.checkpoint_io import load_matching, read_weights

__all__ = ['PretrainedBackboneHook']


@HOOKS.register_module()
class PretrainedBackboneHook(Hook):
    """Load the backbone of a checkpoint into the model before training.

    A run that resumes, or has the weights of a whole model by ``load_from``, keeps them.

    Args:
        checkpoint: Path or URL of a classifier, of another model with a ``backbone``, or of
            a backbone alone; None loads nothing.
        min_loaded: Share of the backbone's parameters that must be loaded, in [0, 1].

    Raises:
        TypeError, ValueError: ``min_loaded`` is not such a number; in training: less was loaded.
    """

    # Before hooks that look at the weights, and before the run counts as started.
    priority = 'VERY_HIGH'

    def __init__(self, checkpoint: Optional[str] = None, min_loaded: float = 0.9) -> None:
        check_number('min_loaded', min_loaded, 'a number in [0, 1]', lambda n: 0 <= n <= 1)
        self.checkpoint = checkpoint
        self.min_loaded = min_loaded

    def before_train(self, runner: Any) -> None:
        """Load the weights."""
        if self.checkpoint is None or runner.iter > 0:
            return
        if getattr(runner, '_has_loaded', False):
            print_log(f'backbone from {self.checkpoint}: not loaded, because load_from has the '
                      'weights of the whole model', logger='current', level=logging.WARNING)
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        backbone = getattr(model, 'backbone', None)
        if backbone is None:
            raise ValueError(f'{self.checkpoint}: the model {type(model).__name__} has no '
                             'backbone to load it into')
        weights, _ = read_weights(self.checkpoint)
        of_backbone = {k.removeprefix('backbone.'): v for k, v in weights.items()
                       if k.startswith('backbone.')}
        diff = load_matching(backbone, of_backbone or weights)
        for line in (f'{diff.fraction:.1%} of the parameters', *diff.problems(sys.maxsize)):
            print_log(f'backbone from {self.checkpoint}: {line}', logger='current')
        if 'pos_embed' in diff.mismatched:
            print_log('the position embedding is not loaded, because its size differs; '
                      'backbone.pos_embed=(rows, columns) of the checkpoint loads it',
                      logger='current', level=logging.WARNING)
        if 'pos_embed' in diff.unexpected:
            print_log('the checkpoint has a position embedding, but the backbone has none; '
                      'backbone.pos_embed=True loads it', logger='current', level=logging.WARNING)
        if diff.fraction < self.min_loaded:
            raise ValueError(
                f'{self.checkpoint}: found {diff.fraction:.0%} of the parameters of '
                f'{type(backbone).__name__}, expected at least {self.min_loaded:.0%} '
                f'(pretrained_backbone.min_loaded); {"; ".join(diff.problems(3))}')
