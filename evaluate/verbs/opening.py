"""Opens what a verb is asked to look at. The trainer knows its runs and checkpoints."""

from pathlib import Path

from common.errors import UserError
from data.config import DataConfig, DataKind
from evaluate.errors import EvaluateError
from evaluate.subject import ModelSubject
from model.config import YarnConfig
from model.yarn import with_yarn
from train.huggingface.generating import Writer, open_writer
from train.huggingface.source import is_run_or_checkpoint, local_folder, open_saved


class Opened:
    """A model with its tokenizer. Raises DataError, ModelError and TrainError."""

    def __init__(self, source: str, tokenizer: Path | None) -> None:
        self.writer: Writer = open_writer(source, tokenizer)
        self._folder = local_folder(source)

    def close(self) -> None:
        """Lets go of the weights, so that those of the next source have room; nothing else may be asked then."""
        del self.writer

    @property
    def name(self) -> str:
        """A name for where the weights lie: demo-step-0000100, demo-hf, or that of the folder."""
        folder = Path(self.writer.place).resolve()
        parent = folder.parent
        if parent.name == "checkpoints":
            return f"{parent.parent.name}-{folder.name}"
        return f"{parent.name}-{folder.name}" if folder.name == "hf" else folder.name

    def trained_length(self, key: str = "length") -> int:
        """Returns the length that it was trained at, in tokens. Raises EvaluateError if that is not known."""
        if self.writer.max_length is None:
            raise EvaluateError(f"{self.writer.place} does not say at which length it was trained: give {key}=N")
        return self.writer.max_length

    def subject(self, yarn_factor: float | None = None) -> ModelSubject:
        """Returns the model to ask, with YaRN of a factor if one is given. Weights are shared.

        Raises EvaluateError if the length of training is not known, ModelError if it has YaRN.
        """
        writer, model = self.writer, self.writer.model
        if yarn_factor is not None:
            yarn = YarnConfig(factor=yarn_factor, original_max_position=self.trained_length())
            model = with_yarn(model, writer.config, writer.positions_config, yarn)
        return ModelSubject(model, writer.tokenizer, writer.device, writer.eos_token_ids)

    def text_data(self) -> DataConfig | None:
        """Returns the text that it was trained on, if it is a run or a checkpoint of one; else None."""
        if not is_run_or_checkpoint(self._folder):
            return None
        try:
            data = open_saved(self._folder).config.data
        except UserError:  # a run whose checkpoints are gone, with an export
            return None
        return data if data.kind is DataKind.text else None
