"""The settings of a run: schema, rules between settings, and error messages."""
