"""How many tokens a source has, as far as the files tell that are ingested already; exact counts need all of it."""

from collections.abc import Iterator

from data.text.chat import MARK
from data.text.frames import FrameFile
from data.text.order import Source
from data.tokenizer import DocumentEncoder, Piece

SAMPLE_BYTES = 32_768  # a few hundredths of a second to encode
MARKS_BYTES = 2 * len(MARK.encode())


def estimate_tokens(source: Source, encoder: DocumentEncoder) -> float | None:
    """Returns the tokens of an epoch, EOS included and held-out documents left out; None: no file is ingested yet."""
    known = source.cache.known(source.files)
    counts = [frames.counts for frames in known.values()]
    if not any(count.documents for count in counts):
        return None
    pieces, num_bytes = [], 0
    for piece in _pieces(source, list(known.values())):
        pieces.append(piece._replace(is_last=False))
        num_bytes += len(piece.text.encode()) + (MARKS_BYTES if piece.is_special else 0)
        if num_bytes >= SAMPLE_BYTES:
            break
    per_byte = sum(map(len, encoder.encode_pieces(pieces))) / num_bytes
    tokens = per_byte * sum(count.text_bytes for count in counts) + sum(count.documents for count in counts)
    num_file_bytes = sum(file.num_bytes for file in source.files if file.name in known)
    return tokens * sum(file.num_bytes for file in source.files) / num_file_bytes * (1.0 - source.held_out_share)


def _pieces(source: Source, known: list[FrameFile]) -> Iterator[Piece]:
    for frames in known:
        if len(frames.num_documents):
            for text in frames.read_frame(0):
                yield from source.cut(text)
