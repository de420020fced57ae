"""Images: registries, the store (an OCI image layout), and what is derived from its layers."""
