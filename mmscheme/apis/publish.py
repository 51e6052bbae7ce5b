"""Checkpoints to give away: what inference needs, under a name that proves its content."""
import argparse
import hashlib
import io
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import torch
from mmengine import Config
from torch import Tensor

from mmscheme.utils.checkpoint_io import load_checkpoint, make_plain
from mmscheme.utils.output_files import check_not_read, write_bytes
from mmscheme.utils.user_errors import user_errors
from mmscheme.version import __version__

from .config import load_config

__all__ = ['main', 'publish']

# Of what training notes: the classes and colours that pictures and reports need.
_META = ('dataset_meta', 'epoch', 'iter')


def publish(checkpoint: Union[str, Path], target: Union[str, Path], half: bool = False,
            cfg: Optional[Config] = None) -> Path:
    """Writes a training checkpoint without optimizer, schedulers, logs and config.

    Args:
        checkpoint: File written by training; read without running code from it.
        target: Where to write, ``DIR/NAME.pth``; the first 8 digits of the SHA-256 of the
            file are added to the name, as ``torch.hub`` checks it.
        half: Stores float32 weights as float16; models load them as what they are.
        cfg: Config to write beside it, whole, as ``NAME-xxxxxxxx.py``.

    Returns:
        The file written, ``DIR/NAME-xxxxxxxx.pth``. ``torch.load`` reads it with its safe
        default.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It has no weights, or some that float16 cannot hold; ``target`` is not
            named ``*.pth``; the config would be written over the one that is read.
    """
    target = Path(target)
    if target.suffix != '.pth':
        raise ValueError(f'expected a name *.pth to write, found {target}')
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f'checkpoint not found: {checkpoint}')
    content = load_checkpoint(str(checkpoint), map_location='cpu')
    weights = content.get('state_dict') if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not any(isinstance(v, Tensor) for v in weights.values()):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f'{checkpoint}: expected weights under state_dict, found {found}')
    meta: Dict[str, Any] = content.get('meta') or {}
    kept = dict(
        meta=make_plain({**{k: meta[k] for k in _META if k in meta},
                         'mmscheme_version': __version__}),
        # A view would drag the whole tensor along.
        state_dict={k: _halve(k, v) if half else v.clone() for k, v in weights.items()})
    # In memory: torch writes the name of a file into it, and the hash would follow the name.
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    data = buffer.getvalue()
    published = target.with_name(f'{target.stem}-{hashlib.sha256(data).hexdigest()[:8]}.pth')
    config = published.with_suffix('.py')
    if cfg is not None:
        check_not_read(config, config=cfg.filename)
    write_bytes(published, data)
    if cfg is not None:
        write_bytes(config, cfg.pretty_text.encode())
    return published


def _halve(name: str, weight: Any) -> Any:
    if not isinstance(weight, Tensor) or weight.dtype != torch.float32:
        return weight
    if weight.numel() and weight.abs().max() > torch.finfo(torch.float16).max:
        raise ValueError(f'{name}: its values are beyond float16')
    return weight.half()


def main(argv: Optional[List[str]] = None) -> None:
    """The command line of ``tools/misc/publish_model.py``."""
    parser = argparse.ArgumentParser(
        description='Strip a checkpoint of what inference does not need and put its hash into '
        'its name.')
    parser.add_argument('checkpoint', help='file written by training')
    parser.add_argument('target', help='file to write, *.pth; a hash is added to its name')
    parser.add_argument('--half', action='store_true', help='store the weights in half precision')
    parser.add_argument('--config', help='write this config beside it, whole')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    args = parser.parse_args(argv)
    with user_errors(args.debug):
        cfg = load_config(args.config) if args.config else None
        published = publish(args.checkpoint, args.target, args.half, cfg)
    before, after = (Path(p).stat().st_size / 2**20 for p in (args.checkpoint, published))
    print(f'{published} ({before:.1f} MiB -> {after:.1f} MiB)')
