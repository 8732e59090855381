"""Where Optuna keeps the trials of a study: a journal, which is a text file, or a file of SQLite.

A study is not looked for anywhere else: what its folder notes is where its first start put it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from train.compose.search import Search
from train.errors import TrainError
from train.launch_config import SQLITE
from train.run_folder import explained_write_errors

JOURNAL, NOTE = "journal.log", "storage"
FAULTS = (ValueError, KeyError, TypeError, AssertionError, optuna.exceptions.StorageInternalError)
"""What Optuna raises for a file that is none of its own; for one of SQLite, errors of SQLAlchemy too."""


class _HeldLock(JournalFileSymlinkLock):
    """Stands for the journal's own lock: the study's is held whenever it is written."""

    def acquire(self) -> bool:
        """Returns True."""
        return True

    def release(self) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Storage:
    """One file, which may hold several studies."""

    path: Path
    is_sqlite: bool = False

    @classmethod
    def of(cls, search: Search, folder: Path) -> "Storage":
        """Returns the storage of a search, by default a journal in the folder of the study."""
        given = search.config.launch.search.storage
        if given is None:
            return cls(folder / JOURNAL)
        return cls(Path(given.removeprefix(SQLITE)), given.startswith(SQLITE))

    @property
    def lock(self) -> Path:
        """The file that is locked while this one is read and changed."""
        return self.path.with_name(f"{self.path.name}.launchers")

    def study(self, name: str) -> optuna.Study:
        """Opens the study, or begins it. Raises TrainError if the file is of something else."""
        faults: tuple[type[Exception], ...] = FAULTS
        if self.is_sqlite:
            from sqlalchemy.exc import SQLAlchemyError  # a tenth of a second that a journal does not need

            faults += (SQLAlchemyError,)
        else:
            _mend(self.path)
        try:
            return optuna.create_study(storage=self._open(), study_name=name, load_if_exists=True)
        except faults as error:
            raise TrainError(f"{self.path} is no storage of a search: move it away, or give another name=") from error

    def note(self, folder: Path) -> None:
        """Notes in the folder of a study that it is here. Raises TrainError if it has been begun elsewhere."""
        given = f"{SQLITE if self.is_sqlite else ''}{self.path.absolute()}"
        noted = folder / NOTE
        is_journal = not noted.exists() and (folder / JOURNAL).exists()  # one that was begun without a storage
        before = str((folder / JOURNAL).absolute()) if is_journal else noted.read_text() if noted.exists() else given
        if before != given:
            raise TrainError(f"the trials of {folder} are in {before}: set launch.search.storage={before}, or name=")
        if self.path != folder / JOURNAL:
            with explained_write_errors(folder):
                noted.write_text(given)

    def _open(self) -> BaseStorage:
        if self.is_sqlite:
            return RDBStorage(f"{SQLITE}{self.path}")
        return JournalStorage(JournalFileBackend(str(self.path), lock_obj=_HeldLock(str(self.path))))


def _mend(path: Path) -> None:
    """Removes a last line that was not written to its end: a full disk leaves one, which Optuna could not read past."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n") and content:
        os.truncate(path, content.rfind(b"\n") + 1)
