"""Programs that run inside a box, on the standard library alone: they import nothing of ours."""
