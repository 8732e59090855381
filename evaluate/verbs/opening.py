"""Opens what a verb is asked to look at. The trainer knows its runs and checkpoints: this module alone asks it."""

from pathlib import Path

from evaluate.errors import EvaluateError
from evaluate.subject import ModelSubject
from model.config import YarnConfig
from model.yarn import with_yarn
from train.huggingface.generating import Writer, open_writer


class Opened:
    """A model with its tokenizer. Raises DataError, ModelError and TrainError."""

    def __init__(self, source: str, tokenizer: Path | None) -> None:
        self.writer: Writer = open_writer(source, tokenizer)

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
