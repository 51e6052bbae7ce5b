"""Hooks for mmengine's Runner."""
from .mixing_schedule import MixingScheduleHook
from .mixing_weights import MixingWeightsHook
from .non_finite import NonFiniteLossHook
from .plain_checkpoint import PlainCheckpointHook
from .pretrained_backbone import PretrainedBackboneHook
from .seg_picture import SegPictureHook

__all__ = ['MixingScheduleHook', 'MixingWeightsHook', 'NonFiniteLossHook', 'PlainCheckpointHook',
           'PretrainedBackboneHook', 'SegPictureHook']
