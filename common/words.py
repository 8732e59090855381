"""Numbers with their nouns."""


def counted(number: int, noun: str) -> str:
    """Returns a number and its noun, in the plural for all numbers but one: `1 rank`, `8 ranks`, `2 batches`."""
    plural = "es" if noun.endswith(("ch", "sh", "s", "x")) else "s"
    return f"{number:,} {noun}" + ("" if number == 1 else plural)
