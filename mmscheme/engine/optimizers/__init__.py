"""Constructors of optimizers."""
from .fan_in_constructor import FanInOptimWrapperConstructor

__all__ = ['FanInOptimWrapperConstructor']
