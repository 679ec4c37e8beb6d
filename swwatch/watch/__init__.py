"""`swwatch watch`: a camera, a stream or a file, narrated here or by a server."""
