"""The peers' measured programs; `venv` puts each peer in an environment of its own."""
