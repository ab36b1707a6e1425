"""HTML pages: one Jinja2 environment, one stylesheet, and the titles of scores."""
