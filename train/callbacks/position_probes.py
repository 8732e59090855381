"""Writes the positions of the tokens of four fixed texts at an interval.

The report draws them as curves, in which plateaus, jumps and the rows of a table show.

All ranks run the texts together, as a batch of one row each, outside of training: no gradient, no random number,
nothing counted. A row is filled up behind its text, which a causal model cannot see.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.fetch.roots import locate_tokenizer, open_root
from data.tokenizer import DocumentEncoder
from report.probes import ProbeText, probe_files, write_probes
from train.callbacks.callback import Callback, TrainerInterface
from train.callbacks.console import Screen
from train.config import RunConfig
from train.errors import Stop, TrainError
from train.huggingface.source import local_folder
from train.watch.alert import Alert
from train.watch.probe_texts import PROBE_TEXTS

logger = logging.getLogger(__name__)


def find_encoder(config: RunConfig) -> DocumentEncoder | None:
    """Returns the tokenizer of the run, if the config, the data or the backbone's folder has it.

    Raises TrainError if it is not the model's, and DataError if it is none.
    """
    named = config.position_watch.probe_tokenizer or config.data.tokenizer
    if named is None and config.init_from is not None:
        beside_weights = local_folder(config.init_from) / "tokenizer.json"
        named = str(beside_weights.resolve()) if beside_weights.is_file() else None
    if named is None:
        return None
    encoder = DocumentEncoder(
        locate_tokenizer(named, open_root(config.data.root, config.data.cache_dir)), config.data.eos_token
    )
    if encoder.max_token_id >= config.model.vocab_size:
        raise TrainError(
            f"position_watch.probe_tokenizer: {named} has ids up to {encoder.max_token_id}, but "
            f"model.vocab_size={config.model.vocab_size}: name the tokenizer that the data was made with"
        )
    return encoder


def read_texts(encoder: DocumentEncoder, max_length: int) -> list[ProbeText]:
    """Returns the probe texts in tokens, cut at `max_length`."""
    texts = []
    for name, document in PROBE_TEXTS.items():
        tokens = encoder.encode([document])[:-1][:max_length].astype(np.int64)  # without EOS
        texts.append(ProbeText(name, tokens, [encoder.decode(tokens[[index]]) for index in range(len(tokens))]))
    return texts


class PositionProbes(Callback):
    """Writes probes/step-NNNNNNN.npz: before the first step, at an interval, at an alert, and at the end."""

    def __init__(self, interval: int, max_length: int, find_encoder: Callable[[], DocumentEncoder | None]) -> None:
        """Probes every `interval` steps; texts are cut at `max_length` tokens; `find_encoder` gives the tokenizer."""
        self._interval = interval
        self._max_length = max_length
        self._find_encoder = find_encoder
        self._texts: list[ProbeText] = []
        self._is_alerted = False
        self._probed_step: int | None = None
        self._tokens_bt = torch.empty(0, 0, dtype=torch.int64)

    def on_start(self, trainer: TrainerInterface) -> None:
        if not any(True for _ in trainer.engine.model.learned_positions()):
            return
        encoder = self._find_encoder()
        if encoder is None:
            if trainer.ranks.is_main:
                Screen(highlight=False, soft_wrap=True).print(
                    f"{trainer.config.name}: no tokenizer is known, so there are no pictures of positions: "
                    "set position_watch.probe_tokenizer",
                    markup=False,
                )
            return
        self._texts = read_texts(encoder, self._max_length)
        longest = max(len(text.tokens) for text in self._texts)
        rows = [np.pad(text.tokens, (0, longest - len(text.tokens))) for text in self._texts]
        self._tokens_bt = torch.from_numpy(np.stack(rows)).to(trainer.engine.device)
        if trainer.ranks.is_main:  # those of a run that was killed, and is about to do these steps again
            for step, path in probe_files(trainer.folder.probes).items():
                if step > trainer.step:
                    path.unlink()
        if trainer.step == 0:
            self._probe(trainer)

    def on_alert(self, trainer: TrainerInterface, alert: Alert) -> None:
        self._is_alerted |= alert.is_new

    def on_step_end(self, trainer: TrainerInterface) -> None:
        is_due = trainer.step % self._interval == 0
        if is_due or self._is_alerted or trainer.step == trainer.max_steps:
            self._probe(trainer)
        self._is_alerted = False

    def on_stop(self, trainer: TrainerInterface, stop: Stop) -> None:
        self._probe(trainer)  # so that the last curves are of the end

    def _probe(self, trainer: TrainerInterface) -> None:
        if not self._texts or self._probed_step == trainer.step:
            return
        self._probed_step = trainer.step
        seen: dict[int, Tensor] = {}

        def listener(layer: int) -> Any:
            def listen(module: nn.Module, inputs: Any, z_bth: Tensor) -> None:
                seen[layer] = z_bth.detach()

            return listen

        hooks = [
            module.register_forward_hook(listener(layer)) for layer, module in trainer.engine.model.learned_positions()
        ]
        try:
            trainer.engine.forward_only(self._tokens_bt)
        finally:
            for hook in hooks:
                hook.remove()
        path = trainer.folder.probe(trainer.step)
        if trainer.ranks.is_main:
            z_lbht = torch.stack([z.transpose(1, 2) for z in seen.values()]).float().cpu().numpy()
            z = {text.name: z_lbht[:, row, :, : len(text.tokens)] for row, text in enumerate(self._texts)}
            try:
                write_probes(path, list(seen), self._texts, z)
            except OSError as error:
                logger.warning("the positions of the probe texts could not be written (%s): training continues", error)
        trainer.probed(path)
