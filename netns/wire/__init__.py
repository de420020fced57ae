"""Wire formats: slotted records with `parse` and `to_bytes`, one file per protocol.

Nothing here does I/O or keeps state. Malformed input raises `WireError` and nothing else. Payloads are views of the
buffer that was parsed; copy what must outlive it.
"""
