"""Downloads that can be resumed, locks, and safe unpacking of archives."""
