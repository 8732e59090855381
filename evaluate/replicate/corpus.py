"""What a replication trains on: rows of token ids, filled with tasks and their answers, and the tokenizer of these.

A row holds whole samples of random tasks and sizes, filled up with EOS. A sample is its prompt, ANSWER, the right
answer, and EOS: the loss may count only what follows ANSWER (loss.answers_after), since what is asked is random. Rows
are a function of the settings and a name (seed and stage), so that every scheme of a seed gets the same, and stage 2
gets others than stage 1.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from common.files import write_text_whole
from evaluate.config import ProbeConfig
from evaluate.errors import EvaluateError
from evaluate.replicate.config import CorpusConfig
from evaluate.samples import Samples
from evaluate.tasks import build_tasks
from evaluate.tasks.task import Task

EOS, UNKNOWN, ANSWER = "<|endoftext|>", "<|unknown|>", "<|answer|>"
SPECIAL = [EOS, UNKNOWN, ANSWER]
ANSWER_ID = SPECIAL.index(ANSWER)
WORDS = r"\n|\w+:?|[^\w\s]"  # with the colon, so that `List:` is one token
SAMPLES_FOR_VOCABULARY = 500  # of each task
DOCUMENTS_AT_ONCE = 512
NUM_WAITING = 32  # documents among which the one that fills a row best is looked for
FILE, FILE_LIST = "rows.npy", "files.txt"


def probe_config(corpus: CorpusConfig, seed: int) -> ProbeConfig:
    """Returns the settings of the tasks. Raises EvaluateError."""
    sizes = {name: getattr(corpus, name) for name in ("num_words", "value_digits", "num_needles", "max_items")}
    config = ProbeConfig(task=list(corpus.tasks), seed=seed, max_new_tokens=1, **sizes)
    config.validate()
    return config


def write_tokenizer(corpus: CorpusConfig, path: Path) -> None:
    """Writes tokenizer.json: a token for each word, or byte-level BPE. Raises EvaluateError."""
    draw = random.Random("tokenizer")
    length = corpus.row_length
    tasks = {name: task.at_length(length) for name, task in build_tasks(probe_config(corpus, 0)).items()}
    texts = []
    for task in tasks.values():
        for number in range(SAMPLES_FOR_VOCABULARY):
            most = task.largest if task.largest is not None else 4 * task.smallest
            sample = task.sample(draw, min(most, task.smallest + number % 20))
            texts.append(sample.prompt + sample.answer)
    if corpus.is_bpe:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=corpus.vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
        tokenizer.train_from_iterator(
            texts, trainers.WordLevelTrainer(vocab_size=10**6, special_tokens=SPECIAL, show_progress=False)
        )
        if tokenizer.get_vocab_size() > corpus.vocab_size:
            raise EvaluateError(
                f"corpus.vocab_size={corpus.vocab_size} is too small for {tokenizer.get_vocab_size()} words"
            )
    tokenizer.add_special_tokens(SPECIAL)
    write_text_whole(path, tokenizer.to_str(), durable=False)


def write_rows(corpus: CorpusConfig, tokenizer: Tokenizer, name: str, num_rows: int, folder: Path) -> None:
    """Writes rows of token ids to `folder`, with the list that the trainer reads; a folder that has them is kept."""
    if (folder / FILE_LIST).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rows = make_rows(corpus, tokenizer, name, num_rows)
    rows.astype("<u2").tofile(folder / FILE)
    write_text_whole(folder / FILE_LIST, f"{FILE}\n", durable=False)


def make_rows(corpus: CorpusConfig, tokenizer: Tokenizer, name: str, num_rows: int) -> np.ndarray:
    """Returns [rows, row_length] uint16. Raises EvaluateError for a task that does not fit a row."""
    draw, length, eos = random.Random(name), corpus.row_length, tokenizer.token_to_id(EOS)
    tasks = _sized(corpus, tokenizer)
    rows = np.full((num_rows, length), eos, np.uint16)
    waiting: list[list[int]] = []
    for row in rows:
        if len(waiting) < NUM_WAITING:
            waiting += _documents(draw, tasks, tokenizer, length)
        used = 0
        document: list[int] | None = waiting.pop(0)
        while document is not None:
            row[used : used + len(document)] = document
            used += len(document) + 1
            fitting = [each for each in waiting[:NUM_WAITING] if len(each) <= length - used]
            document = max(fitting, key=len, default=None)
            if document is not None:
                waiting.remove(document)
    return rows


def _documents(
    draw: random.Random, tasks: list[tuple[Task, int]], tokenizer: Tokenizer, length: int
) -> Iterator[list[int]]:
    """Yields many documents of at most `length` tokens."""
    texts = []
    for _ in range(DOCUMENTS_AT_ONCE):
        task, most = tasks[draw.randrange(len(tasks))]
        sample = task.sample(draw, draw.randint(task.smallest, most))
        texts += [sample.prompt, sample.answer]
    encoded = [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]
    for prompt, answer in zip(encoded[::2], encoded[1::2], strict=True):
        ids: list[int] = [*prompt, ANSWER_ID, *answer]
        if len(ids) <= length:  # the largest size fits on average; a few samples are longer
            yield ids


def _sized(corpus: CorpusConfig, tokenizer: Tokenizer) -> list[tuple[Task, int]]:
    """Returns the tasks and their largest sizes that fit a row, with the end of the document."""
    config = probe_config(corpus, 0)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    found = []
    for name, task in build_tasks(config).items():
        samples = Samples(name, task, corpus.row_length - 1, config, encode)  # ANSWER takes one
        found.append((task.at_length(corpus.row_length), samples[0].size))
    return found
