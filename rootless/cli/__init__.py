"""The command line: Podman's verbs and flags."""
