"""How far one text is from another, in characters."""


def edit_distance(a: str, b: str) -> int:
    """The least number of inserted, deleted and replaced characters that turn a into b.

    Levenshtein, "Binary codes capable of correcting deletions, insertions and reversals", 1966; computed row
    by row (Wagner and Fischer, 1974) in len(a) * len(b) steps. Characters are Unicode code points.
    """
    row = list(range(len(b) + 1))
    for i, char_a in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, char_b in enumerate(b, start=1):
            cost = min(row[j] + 1, row[j - 1] + 1, diagonal + (char_a != char_b))
            diagonal, row[j] = row[j], cost
    return row[-1]


def character_error_rate(read: str, target: str) -> float:
    """Edit distance from what was read to the target, in units of the target's length.

    0 is perfect; there is no upper bound.     Raises ValueError for an empty target, whose rate is undefined.
    """
    if not target:
        raise ValueError("expected a target of at least one character; found an empty one")
    return edit_distance(read, target) / len(target)
