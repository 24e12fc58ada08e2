"""One file a library that runs engine files."""
