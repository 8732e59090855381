"""Runs on a small file system that fills up: `python -m tests.train.full_disk DATA DISK RESULT`, on two ranks."""

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.train.tiny import tiny
from tests.train.watch.failing import Breaking, scale_final
from train.__main__ import train
from train.callbacks.callback import Callback, TrainerInterface
from train.distributed import Ranks, leave
from train.errors import CollectiveError
from train.watch.config import AlertPolicy

FULL_STEP, FREE_STEP = 3, 5
BREAK_STEP, ALERT_STEP = 9, 12
ALERTED = {"max_steps": 16, "position_watch__interval": 2, "position_watch__policy": AlertPolicy.checkpoint}


class Filler(Callback):
    """Leaves no byte free from one step on, or from the last checkpoint on; and all of it from another step."""

    def __init__(self, disk: Path, manner: str) -> None:
        self._file = disk / "filler"
        self._manner = manner

    def on_step_start(self, trainer: TrainerInterface) -> None:
        if trainer.ranks.is_main and self._manner != "unexported":
            full, free = (ALERT_STEP - 1, ALERT_STEP + 2) if self._manner == "alerted" else (FULL_STEP, FREE_STEP)
            if trainer.step == full:
                self._fill()
            if trainer.step == free and self._manner in ("freed", "alerted"):
                self._file.unlink()

    def on_checkpoint(self, trainer: TrainerInterface, folder: str) -> None:
        last = trainer.step == trainer.max_steps
        if trainer.ranks.is_main and self._manner == "unexported" and last:
            self._fill()

    def _fill(self) -> None:
        with contextlib.suppress(OSError), self._file.open("wb", buffering=0) as file:
            for size in (1 << 16, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass


def main(data: str, disk: str, result: str) -> int:
    ranks = Ranks()
    ranks.join()
    seen: dict[str, Any] = {}
    for name in ("freed", "full", "unexported", "alerted"):
        size = {"model__num_layers": 3}  # what the disk has room for
        places = {"run_root": disk, "data__root": f"{data}/tokens", "data__file_list": f"{data}/tokens/files.txt"}
        saving = {"checkpoint__interval": 2, "checkpoint__keep": 2, "checkpoint__export_hf": name == "unexported"}
        config = tiny(Path(data), name=name, **saving, **places, **size)
        callbacks: list[Callback] = [Filler(Path(disk), name)]
        if name == "alerted":
            config = tiny(Path(data), name=name, **ALERTED, **places, **size)
            callbacks.append(Breaking(scale_final(1e3), range(BREAK_STEP, BREAK_STEP + 1)))
        try:
            seen[name] = {"code": train(config, ranks, callbacks)}
        except CollectiveError as error:
            seen[name] = {"code": error.reason.exit_code, "error": str(error)}
        ranks.barrier()
        if ranks.is_main:
            (Path(disk) / "filler").unlink(missing_ok=True)
            shutil.copytree(Path(disk) / name, Path(result) / name)
            shutil.rmtree(Path(disk) / name)
        ranks.barrier()
    if ranks.is_main:
        (Path(result) / "seen.json").write_text(json.dumps(seen))
    return 0


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
