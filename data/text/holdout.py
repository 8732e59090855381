"""Which documents are held out for validation: a pure function of a document's text.

A document is held out if the 64-bit XXH3 hash of its UTF-8 text, as a fraction of 2 ** 64, is below the share. The hash
does not depend on seed, machine or version, so every copy of a text falls on the same side, in every source, for every
topology and after every resume; and what a small share holds out, a larger one does too.
"""

import xxhash


def is_held_out(text: str, share: float) -> bool:
    """Returns whether `share` (from 0, nothing, to 1, everything) holds out the document of this text."""
    return share > 0.0 and xxhash.xxh3_64_intdigest(text.encode()) < int(share * 2.0**64)
