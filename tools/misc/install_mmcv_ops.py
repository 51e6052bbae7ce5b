"""Gives mmcv-lite operators: python tools/misc/install_mmcv_ops.py --help."""
from mmscheme.mmcv_ext.installation import main

if __name__ == '__main__':
    main()
