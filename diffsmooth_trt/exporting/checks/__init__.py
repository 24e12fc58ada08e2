"""What exports are compared with: inputs, the comparison, real noised images, the proof of rows."""
