"""What is drawn: samples, masks, and what a stream without end keeps."""
