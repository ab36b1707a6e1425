"""General utilities: files, seeding, registries, distributed processes, pretrained weights, signals."""
