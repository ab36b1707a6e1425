"""The painter: a page on which people draw label maps and see images of them, and the same as an HTTP API."""
