"""Report: pictures, content and the HTML page."""
