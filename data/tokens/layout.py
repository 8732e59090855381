"""How a token file stores its ids: four or two bytes each, raw as published, or behind a numpy header.

A header says the type itself. Without one, the config does (`token_dtype`): nothing in a raw file tells.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.config import TokenDtype
from data.errors import DataError
from data.fetch.download import is_present
from data.fetch.files import DataFile

HEADER_MAGIC = b"\x93NUMPY"
DTYPES: dict[TokenDtype, np.dtype] = {TokenDtype.uint32: np.dtype("<u4"), TokenDtype.uint16: np.dtype("<u2")}


@dataclass(frozen=True)
class TokenLayout:
    """Where the ids of a file are."""

    dtype: np.dtype
    """Of one id."""
    start: int
    """Bytes before the first."""
    num_tokens: int
    """Ids in the file."""


def layout_of(file: DataFile, token_dtype: TokenDtype = TokenDtype.uint32) -> TokenLayout:
    """Returns the layout of a token file; one that has to be fetched is taken to have no header.

    Raises DataError for a size that is no whole number of ids, and for a header of something else than ids.
    """
    if is_present(file) and _has_header(file.path):
        if file.origin is not None:
            raise header_error(str(file.path))
        return _with_header(file.path)
    dtype = DTYPES[token_dtype]
    if file.num_bytes % dtype.itemsize:
        two_bytes = token_dtype is TokenDtype.uint32 and file.num_bytes % DTYPES[TokenDtype.uint16].itemsize == 0
        remedy = ", or set token_dtype to uint16 if its ids have two bytes" if two_bytes else ""
        raise DataError(
            f"{file.path} is truncated: {file.num_bytes:,} bytes are no whole number of {token_dtype.value} tokens; "
            f"fetch it again{remedy}"
        )
    return TokenLayout(dtype, 0, file.num_bytes // dtype.itemsize)


def header_error(place: str) -> DataError:
    """Returns the error for a file with a header where none can be."""
    return DataError(
        f"{place} has a numpy header, which a file on a server cannot have; fetch the files with `python -m data "
        "fetch` and give that folder as data.root"
    )


def _has_header(path: Path) -> bool:
    with path.open("rb") as content:
        return content.read(len(HEADER_MAGIC)) == HEADER_MAGIC


def _with_header(path: Path) -> TokenLayout:
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is truncated or damaged behind its numpy header ({error}); write it again") from error
    if tokens.dtype not in DTYPES.values() or not tokens.flags.c_contiguous:
        raise DataError(
            f"{path} holds {tokens.dtype} of shape {tokens.shape}; token files hold uint32 or uint16 in one dimension: "
            "write it again with numpy.save(path, ids.astype(numpy.uint32))"
        )
    return TokenLayout(tokens.dtype, tokens.offset, tokens.size)
