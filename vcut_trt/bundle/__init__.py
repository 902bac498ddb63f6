"""What lies on disk: the manifest, the bundle, what a GPU must hold to run it."""
