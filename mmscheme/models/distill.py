"""Train a model to give what another one gives."""
from copy import copy, deepcopy
from functools import partial
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmscheme.layers import SCHEMEMixer
from mmscheme.registry import MODELS
from mmscheme.utils.check_args import check_flags, check_number
from mmscheme.utils.checkpoint_io import read_weights

from .loading import build_argument, load_weights
from .utils.dense_mixers import name_of_stack, sees_positions

__all__ = ['Distill']

# Modules whose output is logits, and others beside the blocks that are compared by default.
_LOGITS = ('head', 'decode_head.conv_seg')
_FEATURES = ('neck', 'panoptic_head.pixel_decoder', 'decode_head.pixel_decoder')

# What a data preprocessor does to the values of an image.
_NORMALISATION = ('mean', 'std', '_channel_conversion', 'channel_conversion', 'to_rgb')


@MODELS.register_module()
def Distill(student: Union[dict, nn.Module], teacher: Union[dict, nn.Module],
            teacher_checkpoint: Optional[str] = None,
            layers: Union[str, Sequence[str], None] = None, *, feature_weight: float = 1.,
            output_weight: float = 1., temperature: float = 1., keep_student_loss: bool = False,
            data_preprocessor: Optional[dict] = None) -> nn.Module:
    """Train a model to give what a trained one gives, without labels.

    This is a function: what it returns is the student, with another loss. So checkpoints, names
    of parameters, hooks, EMA and validation are those of the student, and ``tools/test.py`` takes
    a checkpoint with the student's own config.

    The loss of a feature is the share of the teacher's variance that the student misses,
    ``sum((s - t)**2) / sum((t - mean(t))**2)`` with the mean of each channel, averaged over all
    features. That of logits is the Kullback-Leibler divergence from the teacher's probabilities,
    averaged over positions. The teacher is frozen, in evaluation mode, shared by copies of the
    student, and in no checkpoint.

    Without the student's own losses nothing asks for labels, and the forward pass ends with the
    last output that is compared; heads that have no part in that are frozen.

    Args:
        student: Config of a classifier, segmenter or detector, or the model.
        teacher: The same of the trained model. Its outputs have the student's shapes, and it
            normalises images alike.
        teacher_checkpoint: Weights of the teacher, a file or an address; all must fit. None for
            a teacher that is a module.
        layers: Modules whose outputs are compared, by names that both models have. By default
            the last blocks of each stage that the student's SCHEME mixers are in (the backbone
            where the teacher has no such blocks), and a neck or pixel decoder.
        feature_weight: Factor of the loss of features.
        output_weight: Factor of the loss of logits, which classifiers and segmenters have.
        temperature: Divides logits; the loss is multiplied by its square.
        keep_student_loss: Add the student's own losses, which need labels.
        data_preprocessor: For models that have none: where mmengine's Runner puts that of the
            config.

    Returns:
        The student. Its losses are ``loss_distill_features`` and ``loss_distill_outputs``.

    Raises:
        TypeError, ValueError: A model without ``loss()``, an unknown layer, a teacher without
            weights or of another normalisation; in training: outputs of different shapes, or
            without a gradient.
    """
    for name, value in (('feature_weight', feature_weight), ('output_weight', output_weight)):
        check_number(name, value, 'a number >= 0', lambda n: 0 <= n < float('inf'))
    check_number('temperature', temperature, 'a positive number', lambda n: 0 < n < float('inf'))
    check_flags(keep_student_loss=keep_student_loss)
    if teacher_checkpoint is None and isinstance(teacher, dict):
        raise ValueError('teacher_checkpoint: expected the weights of the teacher, found None')
    model, trained = (build_argument(name, network, data_preprocessor)
                      for name, network in (('student', student), ('teacher', teacher)))
    for name, network in (('student', model), ('teacher', trained)):
        if not callable(getattr(network, 'loss', None)):
            raise TypeError(f'{name}: expected a classifier, segmenter or detector, found '
                            f'{type(network).__name__}, which has no loss()')
    if teacher_checkpoint is not None:
        load_weights(trained, read_weights(teacher_checkpoint)[0], teacher_checkpoint)
    trained.requires_grad_(False)
    trained.eval()  # some return nothing
    _check_normalisation(model, trained)
    logits = next((name for name in _LOGITS if output_weight and _has(model, name)
                   and _has(trained, name)), None)
    if layers is None:
        names = _default_layers(model, trained) if feature_weight else []
    else:
        names = [layers] if isinstance(layers, str) else list(layers)
    for role, network in (('student', model), ('teacher', trained)):
        for name in names:
            if not _has(network, name):
                raise ValueError(f'layers: the {role} has no module {name!r}')
    if not names and logits is None:
        raise ValueError('layers: nothing to compare; name modules of both models')
    if not keep_student_loss:
        # Of a head whose pixel decoder is compared, nothing else has a part.
        reached = {name if name in _FEATURES else name.split('.')[0]
                   for name in (*names, *filter(None, [logits]))}
        way = {'backbone', 'neck'} if reached - {'backbone'} else {'backbone'}
        trained_parts = tuple(f'{part}.' for part in reached | way)
        for name, parameter in model.named_parameters():
            if '.' in name and not name.startswith(trained_parts):
                parameter.requires_grad_(False)
    model.loss = _DistilledLoss(model, trained, names, logits, (feature_weight, output_weight),
                                temperature, keep_student_loss)
    print_log(f'Distill: {type(model).__name__} learns from {type(trained).__name__}: '
              f'features of {", ".join(names) or "none"}; logits of {logits or "none"}',
              logger='current')
    return model


def _has(model: nn.Module, name: str) -> bool:
    return any(name == own for own, _ in model.named_modules() if own)


def _check_normalisation(student: nn.Module, teacher: nn.Module) -> None:
    """Check that both models want the same images, because the student's get to both."""
    found = []
    for model in (student, teacher):
        values = vars(getattr(model, 'data_preprocessor', nn.Module()))
        values = {**values, **values['_buffers']}
        found.append({key: value.flatten().tolist() if isinstance(value, Tensor) else bool(value)
                      for key, value in values.items() if key in _NORMALISATION})
    own, other = found
    if other and own != other:
        raise ValueError(f'teacher: expected a data_preprocessor with the values of the '
                         f"student's, {own}, found {other}")


def _default_layers(student: nn.Module, teacher: nn.Module) -> List[str]:
    """Return the last block of each stage with SCHEME mixers, and what follows the backbone."""
    ends: Dict[Tuple[str, int], str] = {}
    for name, module in student.named_modules():
        parts = name.split('.')
        numbered = [i for i, part in enumerate(parts) if part.isdigit()]
        if isinstance(module, SCHEMEMixer) and numbered and sees_positions(student, name):
            stage = name_of_stack(name), module.ffn.fc1.in_features
            ends[stage] = '.'.join(parts[:numbered[-1] + 1])
    blocks = list(ends.values())
    if not blocks or not all(_has(teacher, name) for name in blocks):
        blocks = ['backbone'] if _has(student, 'backbone') and _has(teacher, 'backbone') else []
    return blocks + [name for name in _FEATURES if _has(student, name) and _has(teacher, name)
                     and any(True for _ in student.get_submodule(name).parameters())]


class _Heard(Exception):
    """Ends a forward pass that has given all that is compared."""


def _listen(outputs: Dict[str, Any], count: int, name: str, module: nn.Module, args: Any,
            output: Any) -> None:
    """Keep the output of a module, a forward hook; with ``count`` of them end the pass."""
    outputs.setdefault(name, output)
    if len(outputs) == count:
        raise _Heard


def _tensors(output: Any) -> Iterator[Tensor]:
    """Visit the features in an output: its tensors of numbers, with two axes or more."""
    if isinstance(output, Tensor):
        if output.is_floating_point() and output.dim() > 1:
            yield output
    elif isinstance(output, (tuple, list, dict)):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)


def _exact(x: Tensor) -> Tensor:
    """Return values that a sum of many squares does not overflow."""
    return x if x.dtype == torch.float64 else x.float()


def _missed_share(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = _exact(student), _exact(teacher)
    # One image without positions has no variance but that between channels.
    channels = {2: None, 4: 1}.get(t.dim(), t.dim() - 1)
    others = [axis for axis in range(t.dim()) if axis != channels]
    spread = (t - t.mean(others, keepdim=True)).square().sum()
    return (s - t).square().sum() / spread.clamp_min(1e-20)


def _divergence(student: Tensor, teacher: Tensor, temperature: float, independent: bool) -> Tensor:
    """Return the divergence of a position: of classes on axis 1, or of each class by itself."""

    def log_probabilities(logits: Tensor) -> Tensor:
        logits = _exact(logits) / temperature
        if not independent:
            return F.log_softmax(logits, 1)
        return F.log_softmax(torch.stack([logits, torch.zeros_like(logits)]), 0)

    s, t = log_probabilities(student), log_probabilities(teacher)
    positions = student.numel() // student.shape[1]
    return (t.exp() * (t - s)).sum() * temperature**2 / positions


class _DistilledLoss:
    """Stands in for ``loss()`` of a student; see :func:`Distill`."""

    def __init__(self, student: nn.Module, teacher: nn.Module, layers: Sequence[str],
                 logits: Optional[str], weights: Tuple[float, float], temperature: float,
                 keep: bool) -> None:
        self.student, self.teacher = student, teacher
        self.layers, self.logits = list(layers), logits
        self.weights, self.temperature, self.keep = weights, temperature, keep
        head = student.get_submodule(logits.split('.')[0]) if logits else nn.Module()
        #: Whether classes do not exclude each other.
        # A Dice loss beside a softmax has sigmoids of its own.
        kinds = [m.use_sigmoid for m in head.modules() if hasattr(m, 'use_sigmoid')]
        self.independent = bool(kinds) and all(kinds)

    def __deepcopy__(self, memo: Dict[int, Any]) -> '_DistilledLoss':
        """Copy all but the teacher, of which one is enough."""
        memo[id(self)] = other = copy(self)
        other.student = deepcopy(self.student, memo)
        return other

    def _run(self, role: str, whole: bool, inputs: Tensor, samples: Any
             ) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """Run a model; return the outputs to compare and, if it runs to the end, its losses."""
        model = getattr(self, role)
        names = dict.fromkeys([*self.layers, *filter(None, [self.logits])])
        outputs: Dict[str, Any] = {}
        count = -1 if whole else len(names)
        handles = [model.get_submodule(name).register_forward_hook(
            partial(_listen, outputs, count, name)) for name in names]
        losses = {}
        try:
            losses = type(model).loss(model, inputs, samples)
        except _Heard:
            pass
        finally:
            for handle in handles:
                handle.remove()
        silent = [name for name in names if name not in outputs]
        if silent:
            raise ValueError(f'layers: {silent[0]!r} of the {role} is not called in training')
        return outputs, losses

    def __call__(self, inputs: Tensor, data_samples: Any = None) -> Dict[str, Any]:
        """Return the losses of a batch as the model gets it from its preprocessor."""
        if next(self.teacher.parameters()).device != inputs.device:
            self.teacher.to(inputs.device)
        with torch.no_grad():
            truth, _ = self._run('teacher', False, inputs, data_samples)
        own, losses = self._run('student', self.keep, inputs, data_samples)
        features = [_missed_share(*pair) for name in self.layers
                    for pair in self._pairs(name, own[name], truth[name])]
        if features:
            losses['loss_distill_features'] = self.weights[0] * torch.stack(features).mean()
        if self.logits:
            pairs = self._pairs(self.logits, own[self.logits], truth[self.logits])
            if len(pairs) != 1:
                raise ValueError(f'output_weight: expected one output of {self.logits}, found '
                                 f'{len(pairs)}; 0 leaves them out')
            (pair, ) = pairs
            losses['loss_distill_outputs'] = self.weights[1] * _divergence(
                *pair, self.temperature, self.independent)
        return losses

    def _pairs(self, name: str, own: Any, truth: Any) -> List[Tuple[Tensor, Tensor]]:
        """Return the tensors of two outputs side by side."""
        students, teachers = list(_tensors(own)), list(_tensors(truth))
        shapes = [[tuple(x.shape) for x in xs] for xs in (students, teachers)]
        if shapes[0] != shapes[1] or not students:
            raise ValueError(f'layers: {name!r} of the student gives {shapes[0]}, that of the '
                             f'teacher {shapes[1]}; expected the same features')
        trained = any(p.requires_grad for p in self.student.get_submodule(name).parameters())
        if torch.is_grad_enabled() and trained and not all(x.requires_grad for x in students):
            raise ValueError(f'layers: {name!r} of the student has no gradient, as inside of '
                             'reentrant checkpointing')
        return list(zip(students, teachers))
