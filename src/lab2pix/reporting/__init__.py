"""Building blocks of HTML reports, shared by run page and evaluation report."""
