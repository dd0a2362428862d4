"""Measures a model: Tables 2 to 9 of the paper.

Generate → extract → execute → score, each a stage of its own with its own file (run.py), for any
model that a `Model` (model.py) answers for: this package knows neither the engine nor the server.
Programs that models wrote run in sandbox.py and nowhere else.
"""
