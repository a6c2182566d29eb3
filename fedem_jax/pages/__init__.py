"""Reports to pass on, each one page of HTML. May import report and all below."""
