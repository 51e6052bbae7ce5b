"""Hooks for mmengine's Runner."""
from .checkpoint import CheckpointHook, DurableBackend
from .logger import LoggerHook
from .mixing_schedule import MixingScheduleHook
from .mixing_weights import MixingWeightsHook
from .non_finite import NonFiniteLossHook
from .plain_checkpoint import PlainCheckpointHook
from .pretrained_backbone import PretrainedBackboneHook
from .seg_picture import SegPictureHook

__all__ = [
    'CheckpointHook', 'DurableBackend', 'LoggerHook', 'MixingScheduleHook', 'MixingWeightsHook',
    'NonFiniteLossHook', 'PlainCheckpointHook', 'PretrainedBackboneHook', 'SegPictureHook'
]
