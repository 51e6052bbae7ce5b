"""Make mmengine read all checkpoints of this process without running code from them.

For a config that other tools than ours run: its
``custom_imports=dict(imports=['mmscheme.safe_checkpoints'])`` does what
``mmscheme.use_safe_checkpoints()`` does in a program.
"""
from mmscheme.utils.checkpoint_io import use_safe_checkpoints

use_safe_checkpoints()
