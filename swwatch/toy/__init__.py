"""The toy world: real mp4 clips of moving shapes and a tiny checkpoint folder, so that everything runs anywhere."""
