"""User study: a page on which people rank images of several methods, and its report (Section 5.5, Table 6)."""
