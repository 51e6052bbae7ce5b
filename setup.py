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


def read_requirements(name):
    """Return the lines of a requirements file without comments."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line.split('#')[0].strip() for line in lines if line.split('#')[0].strip()]


def openmmlab(*without):
    """Return OpenMMLab's packages but some, with mmcv's pure wheel, for the torch that is there."""
    packages = [r for r in read_requirements('upstream')
                if not r.startswith('torch') and r.split('==')[0] not in without]
    return ['torchvision', *packages]


setup(
    license='Apache-2.0',  # not in pyproject.toml, where setuptools of before and after 77 differ
    packages=find_packages(include=['mmscheme', 'mmscheme.*']),
    package_data={'mmscheme': ['py.typed', 'analysis/report.html', 'ops/cpu/*.cpp']},
    install_requires=read_requirements('core'),
    extras_require={
        # `python -m mmscheme install_mmcv_ops` completes mmcv-lite.
        'openmmlab': openmmlab(),
        'seg': openmmlab('mmdet', 'mmpretrain'),
        'det': openmmlab('mmsegmentation', 'mmpretrain', 'ftfy', 'regex'),
        'cls': openmmlab('mmdet', 'mmsegmentation', 'ftfy', 'regex'),
        **{name: read_requirements(name)
           for name in ('timm', 'onnx', 'openvino', 'hub', 'labels', 'docs', 'dev')},
    },
    cmdclass={'build_py': BuildWithConfigs},
    zip_safe=False,
)
