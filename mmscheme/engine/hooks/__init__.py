"""Hooks for mmengine's Runner."""
from .mixing_schedule import MixingScheduleHook
from .plain_checkpoint import PlainCheckpointHook
from .seg_picture import SegPictureHook

__all__ = ['MixingScheduleHook', 'PlainCheckpointHook', 'SegPictureHook']
