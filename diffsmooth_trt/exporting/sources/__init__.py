"""What exports read: checkpoints and model folders of every family, programs, ONNX files."""
