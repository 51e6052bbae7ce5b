"""Begin and end a run of several processes."""
import atexit
import os
import sys
import time
from contextlib import contextmanager
from typing import Iterator

import torch.distributed as dist

__all__ = ['LAUNCHED', 'end_launched', 'leave_process_group', 'lost_process', 'set_local_rank']

#: Environment variable that our launcher sets, because it reports the processes itself.
LAUNCHED = 'MMSCHEME_LAUNCHED'


def set_local_rank(rank: int) -> None:
    """Put the launcher's rank where mmengine looks for it."""
    os.environ.setdefault('LOCAL_RANK', str(rank))


def leave_process_group() -> None:
    """End the communication that mmengine leaves open, when all processes are done.

    A process that exits with it open aborts now and then, because its threads still wait.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        # Its thread needs the interpreter to let go of the last work, and this one would hold
        # that while it waits for the thread.
        time.sleep(0.1)
        dist.destroy_process_group()


def end_launched() -> None:
    """End a process of several that has done all its work, without taking its interpreter down.

    Threads of the communication live on until then, and now and then one of them that wants the
    interpreter while it is taken down aborts the process, which would count as failed.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) > 1 and os.environ.get('LOCAL_RANK'):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@contextmanager
def lost_process() -> Iterator[None]:
    """End this process at once, with one line, when another process of the run has died.

    An ordinary exit would wait for the other one on the broken communication.
    """
    try:
        yield
    except RuntimeError as e:
        text = ' '.join(str(e).split())
        broken = isinstance(e, dist.DistError) or '/gloo/' in text or 'onnection closed' in text
        if not (dist.is_available() and dist.is_initialized() and broken):
            raise
        if LAUNCHED not in os.environ:
            print(f'error: process {dist.get_rank()} of {dist.get_world_size()} ends because it '
                  f'lost another process ({text[:200]}); --resume continues from the last '
                  'checkpoint',
                  file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
