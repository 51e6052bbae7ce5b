"""Hooks for mmengine's Runner."""
from .mixing_schedule import MixingScheduleHook
from .plain_checkpoint import PlainCheckpointHook
from .pretrained_backbone import PretrainedBackboneHook
from .seg_picture import SegPictureHook

__all__ = ['MixingScheduleHook', 'PlainCheckpointHook', 'PretrainedBackboneHook',
           'SegPictureHook']
