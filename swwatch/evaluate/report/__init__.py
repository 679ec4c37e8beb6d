"""`swwatch report`: runs in, one HTML page and Markdown with the same tables out."""
