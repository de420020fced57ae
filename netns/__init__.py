"""A user-mode network for a network namespace: a TAP device there, a TCP/IP stack here.

Knows nothing of containers, and imports nothing of `rootless` or `fuse`.
"""
