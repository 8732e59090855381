"""The suites: lm-eval's tasks (0.4.13), the settings that the paper has for them, and the data that they need.

`paper`: RULER at 1, 2 and 4 times the length of training, with YaRN of that factor, 100 samples each; LongBench at 4
times. `general`: the tasks of the paper's table 5. `local`: what needs no data from outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

RULER_LIMIT, GENERAL_LIMIT = 100, 5000  # samples of a task, as in the paper
OWN_TASKS = "evaluate/lm_eval_tasks"  # below the top folder of the clone


@dataclass(frozen=True)
class Data:
    """Data from outside."""

    name: str
    """As the place that has it calls it."""
    fetch: str | None
    """Python that fetches it into the cache of the user; None: it is read from the network each time."""


def _dataset(name: str, config: str | None = None) -> Data:
    own = f"{name!r}" if config is None else f"{name!r}, {config!r}"
    said = name if config is None else f"{name} ({config})"
    return Data(f"https://huggingface.co/datasets/{said}", f"from datasets import load_dataset; load_dataset({own})")


ESSAYS = _dataset("baber/paul_graham_essays")
SENTENCES = Data("NLTK's punkt_tab", "import nltk; nltk.download('punkt_tab')")
SQUAD = Data("https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json", None)
HOTPOT = Data("https://huggingface.co/datasets/namlh2004/hotpotqa", None)


@dataclass(frozen=True)
class Entry:
    """One task of lm-eval, asked once."""

    task: str
    """lm-eval's name."""
    metric: str
    """lm-eval's name of the metric and, after a comma, of the filter; for RULER the length, as lm-eval has it."""
    length: int | None = None
    """Tokens of RULER's prompts with their answers; None: as the task has it."""
    factor: float | None = None
    """Of YaRN."""
    num_fewshot: int | None = None
    """Solved examples before each question; None: as the task has it."""
    limit: int | None = None
    """Samples at most."""
    data: tuple[Data, ...] = ()
    """What it needs from outside."""
    column: str | None = None
    """Its name among the paper's numbers."""
    differs: str = ""
    """What the paper measured in another way."""
    any_answer: bool = False
    """Whether the score is RULER's, 1 for any right answer that is found, taken from what lm-eval has recorded."""
    is_own: bool = False
    """Whether the task is one of evaluate/lm_eval_tasks."""

    @property
    def name(self) -> str:
        """The task with its length, as in niah_single_1-8192."""
        return self.task if self.length is None else f"{self.task}-{self.length}"

    @property
    def batch(self) -> str:
        """Tasks with the same are run by one command: those that need no data, which cannot stop each other."""
        if self.data:
            return self.name
        return "own" if self.is_own else f"ruler-{self.length}"

    @property
    def is_ruler(self) -> bool:
        """Whether it is one of RULER's tasks, whose prompts fill a length."""
        return self.metric.partition(",")[0].isdigit()


_NEEDLES = "other prompts: a space before the answer's beginning where the paper has a line end, 128 new tokens for all"
_GENERATED = "other samples, made with the model's own tokenizer"
_QA = "scored again from what was generated: RULER gives 1 for any right answer, lm-eval the share of them"
_RULER: dict[str, tuple[tuple[Data, ...], str]] = {
    "niah_single_1": ((), _NEEDLES),
    "niah_single_2": ((ESSAYS, SENTENCES), _NEEDLES),
    "niah_single_3": ((ESSAYS, SENTENCES), _NEEDLES),
    "niah_multikey_1": ((ESSAYS, SENTENCES), _NEEDLES),
    "niah_multikey_2": ((), _NEEDLES),
    "niah_multikey_3": ((), _NEEDLES),
    "niah_multivalue": ((ESSAYS, SENTENCES), _NEEDLES),
    "niah_multiquery": ((ESSAYS, SENTENCES), _NEEDLES),
    "ruler_vt": ((), _GENERATED),
    "ruler_cwe": ((), _GENERATED),
    "ruler_fwe": ((), _GENERATED),
    "ruler_qa_squad": ((SQUAD,), _QA),
    "ruler_qa_hotpot": ((HOTPOT,), _QA),
}
_PRINTED = ("niah_single_1", "niah_multivalue", "niah_multikey_1", "niah_multiquery")  # in table 1
_LONGBENCH = {
    **dict.fromkeys(("2wikimqa", "musique", "multifieldqa_en", "narrativeqa", "triviaqa"), "qa_f1_score,none"),
    **dict.fromkeys(("gov_report", "qmsum"), "rouge_score,none"),
}
_FEWSHOT = "another harness's solved examples (the paper: olmes, its own five)"
_GENERAL: dict[str, tuple[str, int | None, Data, str]] = {
    "arc_challenge": ("acc_norm,none", 5, _dataset("allenai/ai2_arc", "ARC-Challenge"), f"{_FEWSHOT}; answers ranked"),
    "arc_easy": ("acc_norm,none", 5, _dataset("allenai/ai2_arc", "ARC-Easy"), _FEWSHOT),
    "boolq": ("acc,none", 5, _dataset("aps/super_glue", "boolq"), _FEWSHOT),
    "coqa": (
        "f1,none",
        0,
        _dataset("EleutherAI/coqa"),
        "no solved examples: the conversation so far takes their place",
    ),
    "drop": ("f1,none", 5, _dataset("EleutherAI/drop"), _FEWSHOT),
    "hellaswag": ("acc_norm,none", 5, _dataset("Rowan/hellaswag"), _FEWSHOT),
    "mmlu_pro": ("exact_match,custom-extract", None, _dataset("TIGER-Lab/MMLU-Pro"), f"{_FEWSHOT}; limit per subject"),
    "triviaqa": (
        "exact_match,remove_whitespace",
        5,
        _dataset("mandarjoshi/trivia_qa", "rc.nocontext"),
        f"exact match where the paper has F1; {_FEWSHOT}",
    ),
}
NOT_COVERED = {
    "paper": ("HybridQA (table 2): lm-eval has no such task, and the paper's prompts are on the hub only",),
    "general": (),
    "local": (),
}
"""What the paper measured and a suite does not, by suite."""
SUITES = tuple(NOT_COVERED)


def entries(suite: str, trained_length: int, lengths: Sequence[int] = (), limit: int | None = None) -> list[Entry]:
    """Returns what a suite asks of a model that was trained at a length.

    `lengths` are RULER's instead of 1, 2 and 4 times that of training (`local`: 1), `limit` is the number of samples.
    """
    if suite == "general":
        return [
            Entry(task, metric, None, None, shots, limit or GENERAL_LIMIT, (data,), task, differs)
            for task, (metric, shots, data, differs) in _GENERAL.items()
        ]
    if suite == "local":
        own = [
            Entry("recall_in_noise", "exact_match,number", limit=limit, is_own=True),
            Entry("table_lookup", "acc,none", limit=limit, is_own=True),
        ]
        chosen = [task for task, (data, _) in _RULER.items() if not data and task != "ruler_vt"]
        return own + _ruler(chosen, lengths or [trained_length], trained_length, limit or RULER_LIMIT)
    found = _ruler(
        list(_RULER), lengths or [trained_length * k for k in (1, 2, 4)], trained_length, limit or RULER_LIMIT
    )
    longest = max(lengths, default=4 * trained_length)
    return found + [
        Entry(
            f"longbench_{task}",
            metric,
            factor=longest / trained_length if longest > trained_length else None,
            limit=limit,
            data=(_dataset("Xnhyacinth/LongBench", task),),
            column="longbench_triviaqa" if task == "triviaqa" else task,
            differs=f"LongBench's own prompts; longer texts are cut to {longest:,} tokens, the paper leaves them out",
        )
        for task, metric in _LONGBENCH.items()
    ]


def _ruler(tasks: Sequence[str], lengths: Sequence[int], trained_length: int, limit: int) -> list[Entry]:
    return [
        Entry(
            task,
            f"{length},none",
            length,
            length / trained_length if length > trained_length else None,
            limit=limit,
            data=_RULER[task][0],
            column=task if task in _PRINTED and length == 4096 else None,
            differs=_RULER[task][1],
            any_answer=task.startswith("ruler_qa"),
        )
        for length in lengths
        for task in tasks
    ]
