"""What a person is shown: the console, tables, charts, the HTML report."""
