"""Start several processes as torchrun does; print one line if one of them dies."""
import logging
import os
import signal
import sys
import time
from typing import List, Optional

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args, run

from mmscheme.utils.processes import LAUNCHED


def _describe(rank: int, failure: ProcessFailure, seconds: float) -> str:
    code = failure.exitcode
    if code < 0:
        try:
            cause = f'was ended by {signal.Signals(-code).name}'
        except ValueError:
            cause = f'was ended by signal {-code}'
    else:
        cause = f'ended with status {code}'
    return (f'process {rank} (pid {failure.pid}) {cause} after {seconds:.0f} s; the others have '
            'been stopped')


def main(argv: Optional[List[str]] = None) -> None:
    """Run the command line of ``torchrun``; see ``tools/dist_train.sh``.

    When a process dies the others are stopped, a line says which and how, and the status is
    that of the process, or 1 if a signal ended it.
    """
    os.environ[LAUNCHED] = '1'
    # A process that a signal ends shows where it was.
    os.environ.setdefault('PYTHONFAULTHANDLER', '1')
    logging.getLogger('torch.distributed.elastic').setLevel(logging.CRITICAL)
    start = time.monotonic()
    try:
        run(parse_args(argv))
    except ChildFailedError as e:
        # One that a signal ended comes before those that missed it.
        rank, failure = min(e.failures.items(), key=lambda item: (
            item[1].exitcode in (0, -signal.SIGTERM), item[1].exitcode > 0, item[1].timestamp))
        if failure.exitcode != 2:  # then it has said itself what is wrong with the input
            seconds = time.monotonic() - start
            print(f'error: {_describe(rank, failure, seconds)}; --resume continues from the last '
                  'checkpoint', file=sys.stderr)
        sys.exit(max(1, failure.exitcode))
    except SignalException as e:  # the processes have been stopped
        print(f'error: ended by {e.sigval.name}; --resume continues from the last checkpoint',
              file=sys.stderr)
        sys.exit(128 + e.sigval)


if __name__ == '__main__':
    main()
