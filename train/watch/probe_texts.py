"""The probe texts, whose positions are drawn: one for each pattern that RePo is expected to learn.

Prose, with slowly changing positions; a needle in repeated text, whose tokens should have positions of their own; a
table, whose rows should repeat a pattern; code, with its nesting. They never change, so that pictures of two runs can
be compared.
"""

PROSE = """\
The ferry left the island at dusk, half an hour late, because the mate had gone back for a crate of pears that nobody \
would admit to having ordered. On the upper deck an old surveyor unfolded his map and held it flat against the wind. \
He had drawn it forty years ago, when the coast still ran past the lighthouse; since then the sea had taken the \
orchard, the chapel wall and most of the road. What interested him was not what had gone but the order in which it had \
gone. The road went first, although it was the newest. Then the wall, stone by stone, always from the north. The \
orchard held out longest. Trees, he told the boy beside him, know something about holding on that engineers do not, \
and he marked the place where the last of them stood.
"""

NEEDLE = """\
The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. The grass is green. The sky \
is blue. The sun is yellow. Here we go. There and back again. The grass is green. The sky is blue. The sun is yellow. \
Here we go. There and back again. The secret number of the harbour master is 48213. The grass is green. The sky is \
blue. The sun is yellow. Here we go. There and back again. The grass is green. The sky is blue. The sun is yellow. \
Here we go. There and back again. The grass is green. The sky is blue. The sun is yellow. Here we go. What is the \
secret number of the harbour master? It is 48213.
"""

TABLE = """\
| city     | country  | river  | people  | founded |
|----------|----------|--------|---------|---------|
| Basel    | Swiss    | Rhine  | 173000  | 374     |
| Bordeaux | France   | Garonne| 261000  | -300    |
| Bremen   | Germany  | Weser  | 577000  | 787     |
| Cork     | Ireland  | Lee    | 224000  | 606     |
| Porto    | Portugal | Douro  | 231000  | -275    |
| Seville  | Spain    | Betis  | 684000  | -700    |
| Turin    | Italy    | Po     | 851000  | -28     |
| Warsaw   | Poland   | Vistula| 1863000 | 1280    |
"""

CODE = '''\
def merge(left, right):
    """Two sorted lists into one."""
    merged = []
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    merged.extend(left[i:])
    merged.extend(right[j:])
    return merged


def merge_sort(items):
    if len(items) < 2:
        return items
    middle = len(items) // 2
    return merge(merge_sort(items[:middle]), merge_sort(items[middle:]))
'''

PROBE_TEXTS = {"prose": PROSE, "needle": NEEDLE, "table": TABLE, "code": CODE}
"""Name in files, W&B and the page -> text."""
