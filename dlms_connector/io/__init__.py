"""Bytes to and from a meter: TCP and serial streams, HDLC and wrapper framing, shared lines.

Knows nothing of COSEM: an APDU goes in, the meter's APDU comes out, within one deadline.
"""
