"""The OCI runtime: a bundle's config.json becomes a plan of frozen steps, and a short child executes it."""
