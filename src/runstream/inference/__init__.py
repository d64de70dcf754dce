"""Local inference."""
