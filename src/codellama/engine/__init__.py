"""Token ids in, token ids out: scheduling, the paged cache, sampling, speculation, over any Runner.

The life of a step: scheduler.py plans it over sequence.py and kv_pool.py, batch.py writes the plan
as arrays, a runner computes it, live.py draws with sampling.py, engine.py commits. Text belongs to
model/ and to callers.
"""
