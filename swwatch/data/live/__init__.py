"""Live sources: cameras, streams, files at their own pace."""
