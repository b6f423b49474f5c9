"""`report.html`: one file that shows the results of an evaluation in a browser, without network."""
