"""What a person wants to see of a run: results of each class, and the page report.html."""
