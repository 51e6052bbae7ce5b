"""Registries of mmscheme, children of mmengine's.

mmengine imports this module when it meets a type ``mmscheme.X`` in a config of any
scope, and the modules under ``locations`` when it looks the type up: no
``custom_imports`` needed.
"""
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_CONSTRUCTORS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmscheme',
                  locations=['mmscheme.models'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmscheme',
                    locations=['mmscheme.datasets'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmscheme',
                 locations=['mmscheme.engine.hooks'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='mmscheme',
                 locations=['mmscheme.engine.runners'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor', parent=MMENGINE_CONSTRUCTORS, scope='mmscheme',
    locations=['mmscheme.engine.optimizers'])
