"""Checkpoints for publication: what inference needs, with the file's hash in its name."""
import hashlib
from pathlib import Path
from typing import Optional, Union

import torch
from mmengine import Config
from torch import Tensor

from mmscheme.utils.checkpoint_io import (
    check_checkpoint_name,
    checkpoint_bytes,
    make_plain,
    read_weights,
)
from mmscheme.utils.output_files import check_not_read, write_bytes
from mmscheme.version import __version__

__all__ = ['publish']

# Of what training notes: the classes and colours that pictures and reports need.
_META = ('dataset_meta', 'epoch', 'iter')


def publish(checkpoint: Union[str, Path], target: Union[str, Path], half: bool = False,
            cfg: Optional[Config] = None) -> Path:
    """Write a training checkpoint without optimizer, schedulers, logs and config.

    Args:
        checkpoint: File written by training; read without running code from it.
        target: Where to write, ``DIR/NAME.pth`` or ``DIR/NAME.safetensors``; the first 8 digits
            of the SHA-256 of the file are added to the name, as ``torch.hub`` checks it.
        half: Stores float32 weights as float16; models load them as what they are.
        cfg: Config to write beside it, whole, as ``NAME-xxxxxxxx.py``.

    Returns:
        The file written, ``DIR/NAME-xxxxxxxx.pth`` or ``.safetensors``. ``torch.load`` reads the
        first with its safe default.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It has no weights, or some that float16 or safetensors cannot hold;
            ``target`` has another suffix; the config would be written over the one that is read.
    """
    target = Path(target)
    check_checkpoint_name(target)
    weights, meta = read_weights(str(checkpoint))
    kept = dict(
        meta=make_plain({**{k: meta[k] for k in _META if k in meta},
                         'mmscheme_version': __version__}),
        # A view would drag the whole tensor along.
        state_dict={k: _halve(k, v) if half else v.clone() for k, v in weights.items()})
    data = checkpoint_bytes(kept, target.suffix)
    digest = hashlib.sha256(data).hexdigest()[:8]
    published = target.with_name(f'{target.stem}-{digest}{target.suffix}')
    config = published.with_suffix('.py')
    if cfg is not None:
        check_not_read(config, config=cfg.filename)
    write_bytes(published, data)
    if cfg is not None:
        write_bytes(config, cfg.pretty_text.encode())
    return published


def _halve(name: str, weight: Tensor) -> Tensor:
    if weight.dtype != torch.float32:
        return weight
    if weight.numel() and weight.abs().max() > torch.finfo(torch.float16).max:
        raise ValueError(f'{name}: its values are beyond float16')
    return weight.half()
