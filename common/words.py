"""Numbers with their nouns."""


def counted(number: int, noun: str) -> str:
    """Returns a number and its noun, which takes an s for all numbers but one: `1 rank`, `8 ranks`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
