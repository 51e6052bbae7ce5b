"""Checkpoints that a kill or a full disk leaves readable."""
from collections import deque
from pathlib import Path
from typing import Any, Dict, Union

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.hooks import CheckpointHook as _CheckpointHook

from mmscheme.registry import HOOKS
from mmscheme.utils.output_files import remove_parts, write_bytes

__all__ = ['CheckpointHook', 'DurableBackend']

# Key in the message hub: files to remove once the checkpoint that says so is in place.
_SUPERSEDED = 'superseded_ckpts'


class DurableBackend(LocalBackend):
    """Files on this machine that are there whole, on the disk, or not at all."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write a file under a temporary name beside it, and rename it.

        Raises:
            OSError: It cannot be written; what was there before is untouched.
        """
        write_bytes(Path(filepath), bytes(obj))


register_backend('mmscheme.durable', DurableBackend, force=True)


@HOOKS.register_module()
class CheckpointHook(_CheckpointHook):
    """Save checkpoints like mmengine's hook, but always leave one to resume from.

    A checkpoint is written under a temporary name, flushed to disk and renamed. Then
    ``last_checkpoint`` is replaced in the same way. Only then are old checkpoints and the
    previous best one removed, if necessary by the run that resumes after a kill. If a
    checkpoint cannot be written (for example, to a full disk), the log has an error and training
    continues, because the next one may succeed; the last one stops the run.

    This holds for local folders; on other storage there is no temporary name.

    Args:
        args, kwargs: As in mmengine.
    """
    file_backend: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._old_best: Dict[str, str] = {}

    def before_train(self, runner: Any) -> None:
        """Remove files that earlier runs left behind."""
        super().before_train(runner)
        if type(self.file_backend) is LocalBackend:
            self.backend_args = dict(backend='mmscheme.durable')
            self.file_backend = get_file_backend(self.out_dir, backend_args=self.backend_args)
        if runner.iter > 0:
            self.last_ckpt = runner.message_hub.runtime_info.get('last_ckpt')
        if not is_main_process():
            return
        for folder in {str(self.out_dir), runner.work_dir}:
            for path in remove_parts(folder):
                runner.logger.info(f'removed {path}, a file that an earlier run did not finish')
        self._remove_superseded(runner)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: Dict[str, Any]) -> None:
        """Write a checkpoint, then the pointer to it, then remove others."""
        hub, filename = runner.message_hub, self.filename_tmpl.format(step)
        path = self.file_backend.join_path(self.out_dir, filename)
        steps = [s for s in getattr(self, 'keep_ckpt_ids', ()) if s != step] + [step]
        kept = steps[-self.max_keep_ckpts:] if self.max_keep_ckpts > 0 else []
        removed = [self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(s))
                   for s in steps if kept and s not in kept]
        removed += [old for key, old in self._old_best.items() if self._best().get(key) != old]
        infos = {'last_ckpt': path, _SUPERSEDED: removed, **({'keep_ckpt_ids': kept} if kept else
                                                             {})}
        before = {key: hub.runtime_info.get(key, [] if isinstance(value, list) else None)
                  for key, value in infos.items()}
        for key, value in infos.items():
            hub.update_info(key, value)
        try:
            runner.save_checkpoint(
                self.out_dir, filename, self.file_client_args, save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
                backend_args=self.backend_args, **self.args)
            if is_main_process():
                write_bytes(Path(runner.work_dir, 'last_checkpoint'), str(path).encode())
        except OSError as e:
            for key, value in before.items():
                hub.update_info(key, value)
            self._not_written(runner, path, e)
            return
        self.last_ckpt = path
        if kept:
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
        if is_main_process():
            self._remove_superseded(runner)

    def _not_written(self, runner: Any, path: str, error: OSError) -> None:
        """Log that a checkpoint was not written; raise if no other one will follow."""
        last = self.is_last_train_epoch(runner) if self.by_epoch else self.is_last_train_iter(
            runner)
        usable = f'the last usable one is {self.last_ckpt}' if self.last_ckpt else 'there is none'
        text = f'checkpoint not written: {path} ({error.strerror or error}); {usable}'
        if last:
            then = '--resume continues from there' if self.last_ckpt else 'train again'
            failure = OSError(f'{text}; make room, then {then}')
            failure.errno = error.errno
            raise failure from None
        runner.logger.error(f'{text}; training continues')

    def _remove_superseded(self, runner: Any) -> None:
        for path in runner.message_hub.runtime_info.get(_SUPERSEDED) or ():
            if path in (self.last_ckpt, *self._best().values()):
                continue
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # as DeepSpeed writes them
                self.file_backend.rmtree(path)

    def _best(self) -> Dict[str, str]:
        """Return the paths of the best checkpoints by metric."""
        if not self.save_best:
            return {}
        if len(self.key_indicators) > 1:
            return {k: v for k, v in self.best_ckpt_path_dict.items() if v}
        return {'': self.best_ckpt_path} if self.best_ckpt_path else {}

    def _set_best(self, paths: Dict[str, str]) -> None:
        if len(self.key_indicators) > 1:
            self.best_ckpt_path_dict = {k: paths.get(k) for k in self.key_indicators}
        else:
            self.best_ckpt_path = paths.get('')

    def _save_best_checkpoint(self, runner: Any, metrics: Dict[str, Any]) -> None:
        """Write best checkpoints; earlier ones are removed after the next pointer is written."""
        if not self.save_best:
            return
        hub = runner.message_hub
        before = {k: v for k, v in hub.runtime_info.items() if k.startswith('best_')}
        # mmengine's own removal comes first, and finds nothing.
        self._old_best = self._best()
        self._set_best({})
        try:
            super()._save_best_checkpoint(runner, metrics)
        except OSError as e:
            for key in [k for k in hub.runtime_info if k.startswith('best_')]:
                hub.pop_info(key)
            for key, value in before.items():
                hub.update_info(key, value)
            self._set_best({})
            runner.logger.error(f'best checkpoint not written ({e.strerror or e}); training '
                                'continues')
        self._set_best({**self._old_best, **self._best()})
        if self.last_ckpt is None and is_main_process():
            # No pointer to wait for.
            hub.update_info(_SUPERSEDED, list(self._old_best.values()))
            self._remove_superseded(runner)
        self._old_best = {}
