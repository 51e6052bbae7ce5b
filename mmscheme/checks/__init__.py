"""Checks before the first iteration, for what a run would find out late or never."""
from .data import check_data
from .findings import Findings
from .resources import is_count
from .run import check_run

__all__ = ['Findings', 'check_data', 'check_run', 'is_count']
