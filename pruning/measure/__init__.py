"""Measurements of a network (parameters, MACs, storage, latency), and what turns zeros into savings.

`shrink`, `sparse_inference` and `export` turn zeros into savings; `bench` times this program. Counted savings are
called theoretical, timed ones measured, and neither is reported under the other's name.
"""
