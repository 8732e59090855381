"""How many tokens a source has, as far as the files tell that are ingested already; small sources are counted."""

from data.text.chat import MARK
from data.text.frames import FrameFile
from data.text.holdout import is_held_out
from data.text.order import Source
from data.tokenizer import DocumentEncoder, Piece

MAX_FILES = 32  # that are looked at
PLACES = 8  # that the sample is taken from
BYTES_PER_PLACE = 4096
COUNTED_BYTES = 1 << 20  # of a source whose documents are all encoded: 0.1 s
MARKS_BYTES = 2 * len(MARK.encode())


def estimate_tokens(source: Source, encoder: DocumentEncoder) -> tuple[float | None, bool]:
    """Returns the tokens of an epoch, EOS included and held-out documents left out, and whether they are counted.

    They are estimated for a source of more than COUNTED_BYTES, or with files that are not ingested yet. None: all are.
    """
    known = source.cache.known(source.files, MAX_FILES)
    counts = [frames.counts for frames in known.values()]
    if not any(count.documents for count in counts):
        return None, False
    if len(known) == len(source.files) and sum(count.text_bytes for count in counts) <= COUNTED_BYTES:
        return float(sum(_count(source, encoder, frames) for frames in known.values())), True
    pieces = _sample(source, list(known.values()))
    num_bytes = sum(len(piece.text.encode()) + (MARKS_BYTES if piece.is_special else 0) for piece in pieces)
    per_byte = len(encoder.encode_pieces(pieces)[0]) / num_bytes
    tokens = per_byte * sum(count.text_bytes for count in counts) + sum(count.documents for count in counts)
    num_file_bytes = sum(file.num_bytes for file in source.files if file.name in known)
    all_bytes = sum(file.num_bytes for file in source.files)
    return tokens * all_bytes / num_file_bytes * (1.0 - source.held_out_share), False


def _count(source: Source, encoder: DocumentEncoder, frames: FrameFile) -> int:
    documents = (text for frame in range(len(frames.num_documents)) for text in frames.read_frame(frame))
    trained_on = [text for text in documents if not is_held_out(text, source.held_out_share)]
    return len(encoder.encode(trained_on, source.cut))


def _sample(source: Source, known: list[FrameFile]) -> list[Piece]:
    """Returns the beginnings of frames that are spread evenly over the files, as pieces without EOS."""
    places = [(frames, frame) for frames in known for frame in range(len(frames.num_documents))]
    sample: list[Piece] = []
    for place in range(min(PLACES, len(places))):
        frames, frame = places[place * len(places) // min(PLACES, len(places))]
        num_characters = 0
        for piece in (piece for text in frames.read_frame(frame) for piece in source.cut(text)):
            own = piece if piece.is_special else Piece(piece.text[:BYTES_PER_PLACE], is_last=False)
            sample.append(own._replace(is_last=False))
            num_characters += len(piece.text)
            if num_characters >= BYTES_PER_PLACE:
                break
    return sample
