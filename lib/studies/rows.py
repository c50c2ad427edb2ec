"""Rows of results by what they are of."""
from lib.models.methods import kind


def grouped(rows, key, value="mae_gy"):
    """row[key] -> values, one per patient in the same order."""
    found = {}
    for row in rows:
        found.setdefault(row[key], []).append(row[value])
    return found


def by_method(rows, value="mae_gy"):
    return grouped(rows, "method", value)


def sizes_of(rows):
    """The ensemble sizes of ensemble rows as they are keyed, from small to large (JSON sorts "10" before "3")."""
    return sorted(rows[0]["mae_gy"], key=int)


def seeds_of(names):
    """method -> its trainings that differ in nothing but the seed, the first one first."""
    found = {}
    for name in names:
        plain = name.split(",")[0]
        if plain == kind(plain) or plain.partition("-")[2].startswith("seed"):
            found.setdefault(kind(plain) + name[len(plain) :], []).append(name)
    return found
