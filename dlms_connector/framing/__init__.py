"""Bytes on the line as HDLC frames; knows nothing of streams, clocks and threads."""
