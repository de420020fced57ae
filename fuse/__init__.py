"""An overlay filesystem in user space: stacked layers, archives or directories, under one writable upper directory.

Knows nothing of containers, images or registries, and imports nothing of `rootless` or `netns`.
"""
