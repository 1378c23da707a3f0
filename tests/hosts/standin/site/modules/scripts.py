"""Scripts that are loaded: none, but for what a test puts here."""

scripts_data = []
