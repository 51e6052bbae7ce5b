"""Beginning and end of a run of several processes."""
import argparse
import os
import sys
from contextlib import contextmanager
from typing import Iterator

import torch.distributed as dist

__all__ = ['LAUNCHED', 'leave_process_group', 'lost_process', 'set_local_rank']

#: Set where our launcher tells what becomes of the processes, who then leave it to it.
LAUNCHED = 'MMSCHEME_LAUNCHED'


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


@contextmanager
def lost_process() -> Iterator[None]:
    """Ends this process at once, with one line, when another one of the run is gone.

    Its communication is broken then, and would wait for the other one to say good-bye.
    """
    try:
        yield
    except RuntimeError as e:
        text = ' '.join(str(e).split())
        broken = isinstance(e, dist.DistError) or '/gloo/' in text or 'onnection closed' in text
        if not (dist.is_available() and dist.is_initialized() and broken):
            raise
        if LAUNCHED not in os.environ:
            print(f'error: process {dist.get_rank()} of {dist.get_world_size()} ends, for it has '
                  f'lost another one ({text[:200]}); --resume goes on from the last checkpoint',
                  file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
