"""Which arms answer a query: margins from what was observed, the table of bound routes, and the choice."""
