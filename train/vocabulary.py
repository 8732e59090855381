"""Whether the ids of the data are in the model's vocabulary.

A launcher asks before it starts a process, a rank again.
"""

from model.config import ModelConfig

REMEDY = "set the one that belongs to the other"


def vocabulary_problem(max_token_id: int | None, eos_token_id: int, model: ModelConfig) -> str | None:
    """Returns what is wrong with data of which this is the tokenizer's largest id, if there is one; None if nothing."""
    if max_token_id is not None and max_token_id >= model.vocab_size:
        return (
            f"the tokenizer of the data has ids up to {max_token_id}, but model.vocab_size={model.vocab_size}: {REMEDY}"
        )
    if eos_token_id != model.eos_token_id:
        return (
            f"documents of the data end with id {eos_token_id}, but model.eos_token_id={model.eos_token_id}: {REMEDY}"
        )
    return None
