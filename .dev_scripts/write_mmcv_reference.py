"""Write what compiled mmcv computes for the cases in tests/test_mmcv_ext; needs full mmcv.

python3 tools/dev.py --with-mmcv setup makes an environment that has it.
"""
import sys
from pathlib import Path

import mmcv.ops  # noqa: F401 - brings mmcv._ext

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.test_mmcv_ext import cases, reference

if __name__ == '__main__':
    if not getattr(sys.modules['mmcv._ext'], '__file__', '').endswith(('.so', '.pyd')):
        sys.exit('error: mmcv with compiled operators expected, found one without')
    reference.write({name: case() for name, case in cases.cases().items()})
    print(f'{reference.FILE}: {reference.FILE.stat().st_size / 1024:.0f} KiB')
