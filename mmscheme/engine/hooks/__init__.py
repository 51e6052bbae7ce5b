"""Hooks for mmengine's Runner."""
from .auxiliary_loss_hook import AuxiliaryLossHook
from .checkpoint_hook import CheckpointHook, DurableBackend
from .logger_hook import LoggerHook
from .mixing_schedule_hook import MixingScheduleHook
from .mixing_weights_hook import MixingWeightsHook
from .non_finite_hook import NonFiniteLossHook
from .picture_hooks import MaskNamesHook, PictureHook, SegPictureHook
from .plain_checkpoint_hook import PlainCheckpointHook
from .pretrained_backbone_hook import PretrainedBackboneHook
from .resumed_schedule_hook import ResumedScheduleHook
from .runtime_info_hook import RuntimeInfoHook

__all__ = [
    'AuxiliaryLossHook', 'CheckpointHook', 'DurableBackend', 'LoggerHook', 'MaskNamesHook',
    'MixingScheduleHook', 'MixingWeightsHook', 'NonFiniteLossHook', 'PictureHook',
    'PlainCheckpointHook', 'PretrainedBackboneHook', 'ResumedScheduleHook', 'RuntimeInfoHook',
    'SegPictureHook'
]
