"""Saves checkpoints that survive a kill at any moment."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from cankd.openmmlab.engine.resuming import ResumedData, random_state, set_random_state
from cankd.utils.files import remove_leftovers, whole, write_text


class WholeFileBackend(LocalBackend):
    """Local files of mmengine, each of which is either complete or not there (or still the old one)."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes ``obj`` to a file beside ``filepath``, waits until it is on the disk, and renames it."""
        with whole(filepath) as part:
            super().put(obj, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())


register_backend("whole_file", WholeFileBackend)


class _RemovingLater:
    """A file backend that collects the files to remove instead of removing them."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.waiting: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.waiting.append(path)


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """``CheckpointHook`` from whose checkpoints a killed run goes on as if it had not been interrupted.

    Local checkpoints and ``last_checkpoint`` are written whole, and an old checkpoint is removed only after
    the new one is there. Checkpoints hold every process's random state, which a run that resumes restores;
    after a validation it is restored, too. Incomplete files of dead processes are removed
    before training.

    Takes the arguments of mmengine's hook, which :class:`cankd.openmmlab.engine.Runner` replaces by this one.
    """

    backend_args: dict[str, Any] | None
    file_backend: Any
    keep_ckpt_ids: deque
    _states: list[dict[str, Any]] | None = None  # of all processes: to be saved, or to be taken up
    _before_val: dict[str, Any] | None = None

    def before_train(self, runner) -> None:
        """Chooses the backend that saves, and removes incomplete files of dead processes."""
        if self.backend_args is None and self.file_client_args is None and "://" not in str(self.out_dir):
            self.backend_args = {"backend": "whole_file"}
        super().before_train(runner)
        if is_main_process():
            for file in (file for folder in {runner.work_dir, self.out_dir} for file in remove_leftovers(folder)):
                runner.logger.info(f"Removed {file}, which a dead process left.")

    def after_load_checkpoint(self, runner, checkpoint: dict[str, Any]) -> None:
        """Keeps the random states, and warns of states that the checkpoint lacks for a run that resumes."""
        self._states = checkpoint.get("random_state")
        if not runner._resume:  # private, because mmengine's runner tells it nowhere else
            return
        missing = {
            "optimizer": "optimizer state (it was saved with save_optimizer=False): the optimizer starts afresh",
            "random_state": "random state: random augmentation and sampling differ from an uninterrupted run's",
        }
        if runner.param_schedulers is not None:
            missing["param_schedulers"] = "state of the learning rate's schedule: that starts afresh"
        for key in missing:
            if key not in checkpoint:
                runner.logger.warning(f"--resume: the checkpoint holds no {missing[key]}.")

    def before_train_epoch(self, runner) -> None:
        """Restores the random state of the checkpoint that the run goes on from."""
        states, self._states = self._states, None
        if not states or not runner.iter:
            return
        if len(states) != get_world_size():
            runner.logger.warning(
                f"--resume: the checkpoint holds the random states of {len(states)} processes, this run has "
                f"{get_world_size()}: random augmentation and sampling differ from an uninterrupted run's."
            )
            return
        loop, state = runner.train_loop, states[get_rank()]
        if hasattr(loop, "dataloader_iterator"):
            seen = 0 if getattr(loop, "fast_forward_on_resume", False) else runner.iter
            loop.dataloader_iterator = ResumedData(loop.dataloader_iterator, seen, state)
        else:
            set_random_state(state)

    def before_save_checkpoint(self, runner, checkpoint: dict[str, Any]) -> None:
        """Adds the random states of all processes to the checkpoint."""
        if self._states:
            checkpoint["random_state"] = self._states

    def before_val(self, runner) -> None:
        """Remembers the random state of training."""
        self._before_val = random_state()

    def after_val_epoch(self, runner, metrics: dict[str, float]) -> None:
        """Restores the random state of training, and saves the best checkpoint."""
        self.after_val(runner)
        super().after_val_epoch(runner, metrics)

    def after_val(self, runner) -> None:
        """Restores the random state of training."""
        if self._before_val:
            set_random_state(self._before_val)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict[str, Any]) -> None:
        """Saves, names the file in ``last_checkpoint``, and only then removes outdated files."""
        # Overrides a private method, as the next one does: mmengine's hook removes old files before it saves, and has
        # no public place between the two.
        if self.max_keep_ckpts > 0:
            if list(self.keep_ckpt_ids)[-1:] != [step]:
                self.keep_ckpt_ids = deque([*self.keep_ckpt_ids, step])
            # With those about to go: a run that goes on from this file removes what this one could not any more.
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        self._states = all_gather_object(random_state())
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._states = None
        if is_main_process():
            write_text(Path(runner.work_dir, "last_checkpoint"), self.last_ckpt)
        while 0 < self.max_keep_ckpts < len(self.keep_ckpt_ids):
            outdated = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            if is_main_process():
                self._remove(self.file_backend.join_path(self.out_dir, outdated))

    def _save_best_checkpoint(self, runner, metrics: dict[str, float]) -> None:
        """Saves the best checkpoint, and only then removes the one before."""
        backend = self.file_backend
        self.file_backend = later = _RemovingLater(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        for file in later.waiting:
            self._remove(file)

    def _remove(self, file: str) -> None:
        if self.file_backend.isfile(file):
            self.file_backend.remove(file)
