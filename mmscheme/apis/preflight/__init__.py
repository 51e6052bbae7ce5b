"""Checks before the first iteration, for what a run would find out late or never."""
from .data import check_data
from .findings import Findings
from .resources import is_count
from .run import check_run
from .walk import SPLITS, dataset_class, iter_datasets, scope_of, step_name

__all__ = ['SPLITS', 'Findings', 'check_data', 'check_run', 'dataset_class', 'is_count',
           'iter_datasets', 'scope_of', 'step_name']
