"""Amounts of memory as people write and read them."""

import re

_UNITS = {
    "": 1, "B": 1,
    "K": 10**3, "KB": 10**3, "M": 10**6, "MB": 10**6, "G": 10**9, "GB": 10**9, "T": 10**12, "TB": 10**12,
    "KI": 2**10, "KIB": 2**10, "MI": 2**20, "MIB": 2**20, "GI": 2**30, "GIB": 2**30, "TI": 2**40, "TIB": 2**40,
}  # fmt: skip
_AMOUNT = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,9}))?\s?([A-Za-z]{0,3})", re.ASCII)
_LARGEST_BYTES = 2**63 - 1

_QUANTITY_SUFFIXES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip
_QUANTITY = re.compile(
    r"\+?([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE]\+?([0-9]{1,2})|([A-Za-z]{0,2}))", re.ASCII
)


class QuantityError(ValueError):
    """A text that is not an amount of memory; its message is one line for people."""


def parse_bytes(text: str) -> int:
    """Bytes of an amount such as `4Gi`, `16GiB`, `512Mi`, `1.5G` or `1000000`.

    Units are those of Kubernetes: `Ki Mi Gi Ti` are powers of 1024, `K M G T` powers of 1000; a final `B` and the case
    of the letters do not matter. Raises QuantityError.
    """
    match = _AMOUNT.fullmatch(text.strip())
    unit = None if match is None else _UNITS.get(match[3].upper())
    if match is None or unit is None:
        raise QuantityError(f"{text[:40]!r} is not an amount of memory: write it like 4Gi, 512Mi or 1000000")
    whole, fraction = match[1], match[2] or ""
    amount: int = int(whole + fraction) * unit // 10 ** len(fraction)
    if amount > _LARGEST_BYTES:
        raise QuantityError(f"{text[:40]!r} is more memory than any GPU has")
    return amount


def parse_quantity(text: str) -> int:
    """Bytes of a quantity as Kubernetes writes them: `4Gi`, `512Mi`, `0.5Gi`, `1e9`, `1000000`; a fraction of a byte is
    rounded up.

    Stricter than parse_bytes, because here a slip means another amount: letters must have Kubernetes's case, and `512m`
    (half a byte) is refused. Raises QuantityError.
    """
    match = _QUANTITY.fullmatch(text)
    factor = None if match is None else 10 ** int(match[2]) if match[2] else _QUANTITY_SUFFIXES.get(match[3])
    if match is None or factor is None:
        raise QuantityError(f"{text[:40]!r} is not an amount of memory as Kubernetes writes it")
    whole, _, fraction = match[1].partition(".")
    amount: int = -(-int(whole + fraction) * factor // 10 ** len(fraction))
    if amount > _LARGEST_BYTES:
        raise QuantityError(f"{text[:40]!r} is more memory than any GPU has")
    return amount


def format_bytes(amount_bytes: int) -> str:
    """`amount_bytes` for people: `12.0 GiB`, `64.0 MiB`, `512 B`."""
    for suffix, unit in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(amount_bytes) >= unit:
            return f"{amount_bytes / unit:.1f} {suffix}"
    return f"{amount_bytes} B"
