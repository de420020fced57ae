"""What tests share: what this machine offers, leak checks, a user namespace to work in, an `rcontain` of one's own."""
