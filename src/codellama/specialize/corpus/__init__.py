"""From sources to clean documents: read, license, filter, redact, deduplicate, decontaminate.

    readers → filters → secrets → dedup → decontaminate → units → shards (build.py)

Every step is a pure function of documents; build.py strings them together and keeps the result
under the hash of everything that went in, so a second run does nothing. Knows no tokenizer and no
PyTorch.
"""
