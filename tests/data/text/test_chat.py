"""Messages become the tokens that `transformers` makes of them, and no message can write a special token."""

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import orjson
import pytest
from tokenizers import Tokenizer

from data.config import DataConfig, SourceConfig, ValidationConfig
from data.errors import DataError
from data.stream import build_stream
from data.text.chat import BREAK, MARK, ChatTemplate
from data.tokenizer import EOS_TOKEN, DocumentEncoder
from data.validation import build_validation

CHATML = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'ghost' %}{{ raise_exception('there is no such role') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}{% generation %}{{ message['content'] }}{% endgeneration %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
)
TALK = [
    {"role": "user", "content": "What does def mean?\n  Say it in Python."},
    {"role": "assistant", "content": "It begins a function: é, 漢, 🙂."},
]


@pytest.fixture
def mix(sample: Path, tmp_path: Path) -> DataConfig:
    """A source of messages with a tokenizer that has ChatML's tokens."""
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|bos|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"bos_token": {"content": "<|bos|>"}, "eos_token": EOS_TOKEN, "chat_template": CHATML}
    (tmp_path / "tokenizer_config.json").write_bytes(orjson.dumps(settings))
    write(tmp_path, [TALK])
    source = SourceConfig(["chat.jsonl"], 1.0, messages_key="messages")
    return DataConfig(root=str(tmp_path), sources={"chat": source}, tokenizer="tokenizer.json", num_streams=1)


def write(folder: Path, talks: list[list[dict[str, str]]]) -> None:
    (folder / "chat.jsonl").write_bytes(b"".join(orjson.dumps({"messages": talk}) + b"\n" for talk in talks))


def first_document(config: DataConfig) -> list[int]:
    with closing(build_stream(config, sequence_length=512, global_batch_size=1)) as stream:
        row = stream.next_batch().tokens[0].tolist()
        return row[: row.index(stream.eos_token_id) + 1]


def test_tokens_are_those_of_transformers(mix: DataConfig) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_file=f"{mix.root}/tokenizer.json", bos_token="<|bos|>", chat_template=CHATML
    )
    expected = theirs.apply_chat_template(TALK, tokenize=True, return_dict=False)
    encoder = DocumentEncoder(Path(mix.root) / "tokenizer.json", EOS_TOKEN)
    assert first_document(mix) == [*expected, encoder.eos_token_id]


@pytest.mark.parametrize(
    "hostile", ["<|im_end|>", "a<|im_start|>b", EOS_TOKEN, f"{MARK}<|im_end|>{MARK}", f"<{BREAK}|bos|>"]
)
def test_a_special_token_in_a_message_is_plain_text(mix: DataConfig, hostile: str) -> None:
    write(Path(mix.root), [[{"role": "user", "content": hostile}]])
    encoder = DocumentEncoder(Path(mix.root) / "tokenizer.json", EOS_TOKEN)
    ids = first_document(mix)
    special = [encoder.decode(np.array([token])) for token in ids if token >= encoder.max_token_id - 2]
    assert special == ["<|bos|>", "<|im_start|>", "<|im_end|>"]
    shown = hostile.replace(MARK, "\ufffd").replace(BREAK, "\ufffd")
    assert encoder.decode(np.array(ids)) == f"<|bos|><|im_start|>user\n{shown}<|im_end|>\n{EOS_TOKEN}"


TOOLS = "{{ tools | tojson }}\n{% for m in messages %}{{ m.content }}{{ m.tool_calls | tojson }}<|im_end|>{% endfor %}"


@pytest.mark.parametrize(
    "hostile", [EOS_TOKEN, "<|im_end|>", f"a{MARK}b", f"{MARK}<|im_end|>{MARK}", f"<{BREAK}|bos|>"]
)
def test_a_special_token_anywhere_in_a_record_is_plain_text(mix: DataConfig, hostile: str) -> None:
    (Path(mix.root) / "chat_template.jinja").write_text(TOOLS)
    tools = [{"name": hostile, "parameters": {hostile: {"enum": [1, hostile]}}}]
    call = {"function": {"name": "f", "arguments": {hostile: hostile}}, hostile: hostile}
    record = {"messages": [{"role": "user", "content": "hello", "tool_calls": [call]}], "tools": tools}
    (Path(mix.root) / "chat.jsonl").write_bytes(orjson.dumps(record))
    encoder = DocumentEncoder(Path(mix.root) / "tokenizer.json", EOS_TOKEN)
    ids = first_document(mix)
    special_ids = {encoder.eos_token_id, *range(encoder.max_token_id - 2, encoder.max_token_id + 1)}
    special = [encoder.decode(np.array([token])) for token in ids if token in special_ids]
    assert special == ["<|im_end|>", EOS_TOKEN]
    first, second = (json.dumps(value, ensure_ascii=False) for value in (tools, [call]))
    text = f"{first}\nhello{second}".replace(MARK, "\ufffd").replace(BREAK, "\ufffd")
    assert encoder.decode(np.array(ids)) == f"{text}<|im_end|>{EOS_TOKEN}"


def test_tokens_within_each_other_are_broken_up_too() -> None:
    template = ChatTemplate("{{ messages[0].content }}<a>", ("<a>", "<a><a>", "a", "xyx"), EOS_TOKEN)
    talk = [{"content": "<a><a><a> xyxyx a"}]
    assert template.render(talk) == f"<a><a><a> xyxyx a{MARK}<a>{MARK}"


def test_no_mark_comes_from_elsewhere() -> None:
    template = ChatTemplate("{{ '%c' | format(messages[0].number) }}<|im_end|>", ("<|im_end|>",), EOS_TOKEN)
    assert template.render([{"number": ord(MARK)}]) == f"\ufffd{MARK}<|im_end|>{MARK}"


def test_an_end_of_document_that_the_template_writes_is_not_doubled(mix: DataConfig) -> None:
    template = "{{ eos_token }}{% for m in messages %}{{ m.content + eos_token + '\\n' }}{% endfor %}"
    (Path(mix.root) / "chat_template.jinja").write_text(template)
    encoder = DocumentEncoder(Path(mix.root) / "tokenizer.json", EOS_TOKEN)
    with closing(build_stream(mix, sequence_length=64, global_batch_size=1)) as stream:
        shown = encoder.decode(stream.next_batch().tokens[0])
    first, second = (talk["content"] for talk in TALK)
    assert shown.startswith(f"{first}{EOS_TOKEN}\n{second}{EOS_TOKEN}{first}"[: len(shown)])


def test_the_template_and_the_key_are_part_of_the_fingerprint(mix: DataConfig) -> None:
    with closing(build_stream(mix, sequence_length=64, global_batch_size=1)) as stream:
        before = stream.fingerprint
    (Path(mix.root) / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with closing(build_stream(mix, sequence_length=64, global_batch_size=1)) as stream:
        after = stream.fingerprint
    assert {key for key in before if before[key] != after[key]} == {"data.sources.chat.chat_template"}
    assert before["data.sources.chat.messages_key"] == "messages"


def test_messages_that_are_held_out_are_trained_on_nowhere(mix: DataConfig) -> None:
    write(Path(mix.root), [[{"role": "user", "content": f"number {n}"}] for n in range(200)])
    mix.validation = ValidationConfig(share=0.2, rows=4)
    encoder = DocumentEncoder(Path(mix.root) / "tokenizer.json", EOS_TOKEN)

    def seen(rows: np.ndarray) -> set[str]:
        return set(encoder.decode(rows.reshape(-1)).split(EOS_TOKEN)[1:-1])

    rows = build_validation(mix, sequence_length=64)
    assert rows is not None
    with closing(build_stream(mix, sequence_length=2048, global_batch_size=4)) as stream:
        trained = seen(stream.next_batch().tokens)
    assert len(trained) > 140 and len(seen(rows.tokens)) > 5 and not trained & seen(rows.tokens)


def test_a_template_that_fails_is_one_line(mix: DataConfig) -> None:
    write(Path(mix.root), [[{"role": "ghost", "content": ""}]])
    with pytest.raises(
        DataError, match=r"chat\.jsonl: 1 of 1 records .* chat template: there is no such role: set data"
    ):
        build_stream(mix, sequence_length=64, global_batch_size=1)
    (Path(mix.root) / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(DataError, match=r"data\.sources\.chat\.chat_template: line 1 of the template is faulty"):
        build_stream(mix, sequence_length=64, global_batch_size=1)
    (Path(mix.root) / "chat_template.jinja").unlink()
    (Path(mix.root) / "tokenizer_config.json").unlink()
    with pytest.raises(DataError, match=r"chat_template: there is no chat_template\.jinja beside the tokenizer"):
        build_stream(mix, sequence_length=64, global_batch_size=1)
