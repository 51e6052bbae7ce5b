"""The layers are usable without OpenMMLab."""
import subprocess
import sys


def test_layers_import_torch_only():
    code = ('import sys\n'
            'class Refuse:\n'
            '    def find_spec(self, name, *rest):\n'
            '        if name.split(".")[0] in ("mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain",'
            ' "cv2"):\n'
            '            raise ImportError(name)\n'
            'sys.meta_path.insert(0, Refuse())\n'
            'import torch\n'
            'from mmscheme.layers import SCHEMEMixer\n'
            'print(SCHEMEMixer(8)(torch.zeros(1, 8, 2, 2)).shape)')
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip() == 'torch.Size([1, 8, 2, 2])', result.stderr
