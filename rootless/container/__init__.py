"""Containers as the user sees them: a record on disk, a lock that says it lives, and its life cycle."""
