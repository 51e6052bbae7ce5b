"""Exports a checkpoint to ONNX, torch.export or TorchScript: export.py --help."""
from mmscheme.deploy.export import main

if __name__ == '__main__':
    main()
