"""What the bytes of bodies and answers say: fields, ids and usage, read as they pass.

Reads and counts; it neither routes nor knows who pays.
"""
