"""What exports write: ONNX files in every precision, packages, plans, and the report."""
