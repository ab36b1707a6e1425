"""Part of lab2pix."""
