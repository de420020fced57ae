"""What tests share: what this machine offers, leak checks, a user namespace to work in, and an `rcontain` of one's own."""
