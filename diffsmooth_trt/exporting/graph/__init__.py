"""What becomes of a network before it is written: folding, one-shot denoising, preprocessing, resizing, precision."""
