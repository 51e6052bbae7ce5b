"""Beginning and end of a run of several processes."""
import argparse
import os

import torch.distributed as dist

__all__ = ['leave_process_group', 'set_local_rank']


def set_local_rank(args: argparse.Namespace) -> None:
    """Puts the launcher's rank where mmengine looks for it."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))


def leave_process_group() -> None:
    """Ends the communication that mmengine leaves open, when all processes are done.

    A process that exits with it open now and then aborts: its threads are still waiting.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
