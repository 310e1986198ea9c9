"""From the network to a disk: downloads that go on, locks, archives unpacked with care."""
