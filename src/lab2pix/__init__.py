"""Lab2Pix: label maps to photo-realistic pictures."""
