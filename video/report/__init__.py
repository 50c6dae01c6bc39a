"""The report: pictures, content and the HTML page."""
