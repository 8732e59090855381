"""`python -m model generate`: text from a run, a checkpoint or a folder, and the positions of its tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer
from torch import Tensor

from model.config import ModelConfig, PositionsConfig
from model.generate import learned_positions, next_tokens
from model.huggingface.reading import read_configs
from model.huggingface.tokenizer import NAME
from model.transformer import Olmo2
from model.weights import checked_weights, initialise
from train.errors import TrainError
from train.huggingface.companions import find_tokenizer
from train.huggingface.source import check_reachable, fetch_source, is_run_or_checkpoint, open_saved, open_source

_LOW, _HIGH = (60, 110, 255), (255, 80, 60)  # colours of the smallest and the largest position of a head


@dataclass(frozen=True)
class Writer:
    """A model with its tokenizer, on its device."""

    model: Olmo2
    config: ModelConfig
    positions_config: PositionsConfig
    tokenizer: Tokenizer
    device: torch.device
    eos_token_ids: list[int]
    """The tokens at which a text ends; the first one begins documents too."""
    place: str
    """Where the weights lie."""
    max_length: int | None
    """The length that the model was trained at, in tokens, if that is known."""

    def stream(self, prompt: str, max_tokens: int, temperature: float, seed: int) -> Iterator[str]:
        """Yields the text after `prompt`, piece by piece, up to a token that ends texts or `max_tokens`."""
        ids, written = self.encode(prompt), ""
        start, generator = len(ids), torch.Generator().manual_seed(seed)
        tokens = torch.tensor(ids, device=self.device)
        for token in next_tokens(self.model, tokens, temperature=temperature, generator=generator):
            if token in self.eos_token_ids:
                return
            ids.append(token)
            text = self.tokenizer.decode(ids[start:])
            if not text.endswith("\ufffd") or len(ids) - start == max_tokens:  # else within a character
                yield text[len(written) :]
                written = text
            if len(ids) - start == max_tokens:
                return

    def encode(self, text: str) -> list[int]:
        """Returns token ids, at least one: for an empty text that which begins documents."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids or self.eos_token_ids[:1]

    def layer_to_show(self, layer: int | None) -> int:
        """Returns a layer that learns positions: the one asked for, or the middle one of all. Raises TrainError."""
        learned = [number for number, _ in self.model.learned_positions()]
        if not learned:
            raise TrainError("no layer of this model learns positions: there are none to show")
        if layer is not None and layer not in learned:
            raise TrainError(f"--layer {layer} learns no positions; layers that do: {', '.join(map(str, learned))}")
        return learned[len(learned) // 2] if layer is None else layer

    def positions(self, text: str) -> tuple[list[str], dict[int, Tensor]]:
        """Returns the tokens of a text, and their positions [T, H_kv] in each layer that learns them."""
        ids = self.encode(text)
        found = learned_positions(self.model, torch.tensor(ids, device=self.device))
        return [self.tokenizer.decode([token]) or "·" for token in ids], found


def open_writer(source: str, tokenizer: Path | None) -> Writer:
    """Loads a model, in bfloat16 on a GPU where there is one, else in float32.

    Raises DataError, ModelError and TrainError.
    """
    check_reachable(source)
    folder = fetch_source(source)
    opened = open_source(folder)
    config, positions = read_configs(opened)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device("meta"):
        model = Olmo2(config, positions)
    path = tokenizer or _tokenizer_of(folder, Path(opened.place))
    words = _open_tokenizer(path)
    if (largest := max(words.get_vocab().values(), default=-1)) >= config.vocab_size:
        raise TrainError(f"{path} has ids up to {largest}, but the model has {config.vocab_size}: give --tokenizer")
    initialise(model, checked_weights(opened, config, positions, seed=0), device)
    model.to(torch.bfloat16 if device.type == "cuda" else torch.float32).eval()
    max_length = opened.config.get("max_position_embeddings")
    return Writer(model, config, positions, words, device, config.eos_token_ids, opened.place, max_length)


def show_positions(tokens: list[str], positions: Tensor, layer: int, console: Console) -> None:
    """Prints the tokens once per head of a layer, coloured from the smallest of its positions [T, H_kv] to the largest.

    Without colours, each token has its position beside it.
    """
    for head, z_t in enumerate(positions.float().T):
        low, high = float(z_t.min()), float(z_t.max())
        console.print(f"layer {layer} head {head}: {low:.4g} to {high:.4g}", style="bold", highlight=False)
        text = Text()
        for token, z in zip(tokens, z_t.tolist(), strict=True):
            share = (z - low) / (high - low) if high > low else 0.5
            red, green, blue = (round(a + (b - a) * share) for a, b in zip(_LOW, _HIGH, strict=True))
            shown = token if console.is_terminal else f"{token.strip() or '_'}({z:.4g}) "
            text.append(shown, style=f"rgb({red},{green},{blue})")
        console.print(text, soft_wrap=True)


def _tokenizer_of(folder: Path, place: Path) -> Path:
    """Returns the tokenizer beside the weights, or that of a run's data. Raises DataError and TrainError."""
    for path in (place / NAME, folder / NAME):
        if path.is_file():
            return path
    if is_run_or_checkpoint(folder):
        return find_tokenizer(open_saved(folder).config)
    raise TrainError(f"{folder} has no {NAME}: give --tokenizer")


def _open_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise TrainError(f"{path} is not a tokenizer.json ({error}); give --tokenizer") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
