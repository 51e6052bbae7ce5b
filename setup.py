"""Packaging: the package, with configs, tools and index in it as OpenMMLab's ``mim`` expects."""
import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ('configs', 'tools', 'model-index.yml')


class BuildWithConfigs(build_py):
    """Put what ``mim`` looks for into ``mmscheme/.mim``: copies, or links when editable."""

    def run(self):
        super().run()
        if self.editable_mode:
            folder = ROOT / 'mmscheme' / '.mim'
            folder.mkdir(exist_ok=True)
            for name in SHIPPED:
                link = folder / name
                if link.is_symlink() or link.is_file():
                    link.unlink()
                elif link.is_dir():
                    shutil.rmtree(link)
                link.symlink_to(os.path.relpath(ROOT / name, folder))
        else:
            folder = Path(self.build_lib) / 'mmscheme' / '.mim'
            shutil.rmtree(folder, ignore_errors=True)
            for name in SHIPPED:
                if (ROOT / name).is_file():
                    folder.mkdir(exist_ok=True)
                    shutil.copy(ROOT / name, folder)
                else:
                    shutil.copytree(ROOT / name, folder / name,
                                    ignore=shutil.ignore_patterns('__pycache__'))


def read_version():
    namespace = {}
    exec((ROOT / 'mmscheme' / 'version.py').read_text(), namespace)
    return namespace['__version__']


def read_requirements(name):
    """Return a requirements file's lines without comments, and without the pinned torch."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    lines = [line.split('#')[0].strip() for line in lines]
    return [line for line in lines if line and not line.startswith('torch')]


setup(
    name='mmscheme',
    version=read_version(),
    description='SCHEME channel mixers and SCHEMEformer backbones for OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmscheme', 'mmscheme.*']),
    package_data={'mmscheme': ['py.typed', 'analysis/report.html', 'ops/cpu/*.cpp']},
    python_requires='>=3.10',
    # OpenMMLab is not required by name: its maintained forks have other distribution names.
    install_requires=['torch>=2.6', 'numpy'],
    extras_require={
        # OpenMMLab, with mmcv's pure wheel: `python -m mmscheme install_mmcv_ops` completes it.
        'openmmlab': ['torchvision', *read_requirements('upstream')],
        # Backbones for mmpretrain.TIMMBackbone.
        'timm': ['timm>=1.0'],
        # tools/deploy/export.py: torch writes ONNX with the first two, the third checks it.
        'onnx': ['onnx', 'onnxscript', 'onnxruntime'],
    },
    cmdclass={'build_py': BuildWithConfigs},
    zip_safe=False,
)
