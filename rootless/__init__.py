"""rcontain's engine: from an image reference to a running, rootless container.

Imports point one way; `tests/test_imports.py` holds this map against the code:

    client, request, outside    stdlib only; talks to the engine, mounts outside of it
    engine, forkserver, session the warm process, and one process for each command
    cli                         click commands; they read like the manual page
      -> container              records, locks, life cycle of a container
        -> image | runtime      never import each other
          -> oci                pure: references, digests, documents, tar
            -> errors, processes, syscalls, settings

`fuse` and `netns` are packages of their own that know nothing of this one.
"""

__version__ = "0.1.0"
