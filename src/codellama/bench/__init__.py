"""How fast this engine is here, how fast it could be, and how fast its peers are in the same run.

    cases     what is measured: a prompt, an answer, at a depth, of several sequences at once
    limits    bytes and operations of a case, and the time they need at the machine's best
    machine   the machine's best, measured: memory read bandwidth, multiply-adds of an instruction
    worker    one process that loads a model and measures cases; `ours` starts it
    peer      the same cases by another engine's llama-bench and llama-batched-bench
    session   ours and the peer's runs in turn, medians, ratios
    report    tables and JSON; plot, the roofline

Knows nothing of accuracy, texts or networks. Figures of one run compare with each other; those of
another day or machine do not.
"""
