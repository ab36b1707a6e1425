"""Pages served on this machine: the user study."""
