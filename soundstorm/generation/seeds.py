"""Seeds derived from other seeds."""

import hashlib


def derived_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for a purpose, derived from `seed` and statistically independent of it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1


def candidate_seed(seed: int, candidate: int) -> int:
    """The seed, 63 bits, of candidate number `candidate` of a sample; candidate 0 has the sample's own seed."""
    return seed if candidate == 0 else derived_seed(seed, f"draw {candidate}")


def window_seed(seed: int, number: int) -> int:
    """The 63-bit seed of window `number` of a sample; the first window has the seed of the sample."""
    return seed if number == 0 else derived_seed(seed, f"window {number}")
