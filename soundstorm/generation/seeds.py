"""Seeds derived from other seeds."""

import hashlib


def derived_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for a purpose, derived from `seed` and statistically independent of it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1
