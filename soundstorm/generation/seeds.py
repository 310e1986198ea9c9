"""Seeds that follow from one another."""

import hashlib


def derived_seed(seed: int, purpose: str) -> int:
    """A seed, 63 bits, that follows from another one and is independent of it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1
