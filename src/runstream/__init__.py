"""Live, durable, ordered, resumable event streams out of running Python programs."""
