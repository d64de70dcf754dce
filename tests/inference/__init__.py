"""Tests of local inference, on its real engines."""
