"""Label spaces: classes, colors and ids in files."""
