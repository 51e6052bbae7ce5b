"""Pictures and figures."""
