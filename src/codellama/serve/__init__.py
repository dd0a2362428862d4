"""HTTP dialects over one engine: Ollama, OpenAI and llama.cpp clients on one port, unchanged.

    settings.py   what the environment and flags say        app.py       routes and middleware
    models.py     names → loaded models, kept and let go    worker.py    an engine's thread
    jobs.py       one request in progress, as text          stream.py    a job seen by a handler
    asking.py     where every door meets: limits, priorities, editors
    ollama*.py openai*.py llamacpp*.py   the dialects: fields in, shapes out, errors in their words

A handler turns fields into a Prompt and SamplingParams, submits a Job, and shapes its Deltas. Every
generation of every dialect goes through the one worker of its model, so all are batched together.
Imports neither evaluate nor specialize; starlette and uvicorn are imported by this package alone.
"""
