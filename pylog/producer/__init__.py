"""Sends: what is gathered into batches, who hands them over, and the futures that tell.

Must not know consumers, files or segments.
"""
