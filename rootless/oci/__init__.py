"""Pure OCI vocabulary: references, digests, media types, platforms, documents, tar. No I/O, no await, no clock."""
